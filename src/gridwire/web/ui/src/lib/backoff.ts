/** Waiting times between attempts: doubled each time, capped, and jittered so that many pages do not call in step. */
export class Backoff {
  #attempts = 0;

  constructor(
    private readonly leastMs = 400,
    private readonly mostMs = 5_000,
  ) {}

  /** How many attempts failed since the last success. */
  get attempts(): number {
    return this.#attempts;
  }

  /** The next waiting time in milliseconds. */
  next(): number {
    const full = Math.min(this.mostMs, this.leastMs * 2 ** this.#attempts);
    this.#attempts += 1;
    return full * (0.75 + Math.random() * 0.25);
  }

  /** Start over after a success. */
  reset(): void {
    this.#attempts = 0;
  }
}
