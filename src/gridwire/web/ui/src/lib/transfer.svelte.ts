/**
 * Copies or replays a range of a hub's events to another hub, one bounded step of the hub's API after another.
 *
 * The hub moves the events; this knows how far it is, can be stopped, and sets the pace of a replay: every step takes
 * the events whose time has come. When the tab goes, so does the transfer.
 */
import { copyStep, textOf, type Copied, type Range } from "./api";

interface Part {
  readonly partition: number;
  readonly start: number;
  next: number;
  end: number;
  /** Time of the event at `next`, where a step has stopped at it. */
  nextMs: number | null;
}

const TICK_MS = 200;
const EPOCH = "1970-01-01T00:00:00Z";

export type TransferState = "running" | "done" | "stopped" | "failed";

export class Transfer {
  state = $state<TransferState>("running");
  copied = $state(0);
  done = $state(0);
  total = $state(0);
  trouble = $state("");
  #parts: Part[] = [];
  #leaving = new AbortController();

  /** `speed` is null for a copy; 10 replays ten times as fast as the events came. */
  constructor(
    private readonly hub: string,
    readonly toHub: string,
    private readonly partitions: readonly number[],
    private readonly range: Range,
    private readonly speed: number | null,
  ) {
    void this.#run();
  }

  /** Stop after the step that is under way; what was copied stays. */
  stop(): void {
    this.#leaving.abort();
  }

  async #run(): Promise<void> {
    try {
      // The whole range is known before anything is copied, so a copy ends where the hub ended when it began.
      for (const partition of this.partitions) await this.#open(partition);
      await (this.speed === null ? this.#copy() : this.#replay(this.speed));
      this.state = "done";
    } catch (error) {
      this.state = this.#leaving.signal.aborted ? "stopped" : "failed";
      if (this.state === "failed") this.trouble = textOf(error);
    }
  }

  async #open(partition: number): Promise<void> {
    const where = this.range.where ? { where: this.range.where } : {};
    const step = { to_hub: this.toHub, partition, from: this.range.from || "earliest", to: this.range.to || "latest", ...where };
    const found = await copyStep(this.hub, { ...step, before: EPOCH }, this.#leaving.signal);
    this.#parts.push({ partition, start: found.next, next: found.next, end: found.end, nextMs: found.next_ms });
    this.total += Math.max(0, found.end - found.next);
    this.copied += found.copied;
  }

  async #copy(): Promise<void> {
    for (const part of this.#parts) {
      while (part.next < part.end && (await this.#step(part)));
    }
  }

  async #replay(speed: number): Promise<void> {
    const firstMs = Math.min(...this.#parts.map((part) => part.nextMs ?? Infinity));
    const begun = performance.now();
    let open = this.#parts.filter((part) => part.next < part.end);
    while (open.length) {
      const dueMs = firstMs + (performance.now() - begun) * speed;
      const before = new Date(Math.ceil(dueMs)).toISOString();
      for (const part of open) {
        while (part.next < part.end && (part.nextMs ?? -Infinity) < dueMs && (await this.#step(part, before)));
      }
      open = open.filter((part) => part.next < part.end);
      if (open.length) await this.#pause();
    }
  }

  /** One step; whether it moved. */
  async #step(part: Part, before?: string): Promise<boolean> {
    const { partition, next: from, end: to } = part;
    const pace = before === undefined ? {} : { before, stamp: "now" as const };
    const where = this.range.where ? { where: this.range.where } : {};
    const step = { to_hub: this.toHub, partition, from, to, ...where, ...pace };
    const found: Copied = await copyStep(this.hub, step, this.#leaving.signal);
    part.next = found.next;
    part.nextMs = found.next_ms;
    this.copied += found.copied;
    this.done += found.next - from;
    // A transaction that is not decided holds back what follows it: the rest is not there to be copied.
    if (found.next === from && found.next_ms === null) part.end = from;
    return found.next > from && found.next_ms === null;
  }

  #pause(): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(resolve, TICK_MS);
      this.#leaving.signal.addEventListener("abort", () => (clearTimeout(timer), reject(new Error("stopped"))), { once: true });
    });
  }
}
