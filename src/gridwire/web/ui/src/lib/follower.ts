/**
 * Follows hubs by reading pages of events whenever a tick says that a partition's end moved.
 *
 * Pulling is what bounds the work: a hub that takes half a million events a second moves its end once a tick, the
 * follower reads the newest `last` of them and reports how many it skipped. A pushed stream would drown the page.
 */
import { ApiError, fetchEvents, type Bounds, type HubEvent, type Tick } from "./api";

export interface FollowerOptions {
  /** How many of the newest events to read at first, and at most per catch-up, over all partitions. */
  readonly last: number;
  /** Only this partition. */
  readonly partition?: number | undefined;
  /** Only events for which this holds, as the hub filters them. */
  readonly where?: string;
  /** New events of one partition in order, and how many before them were left out. */
  readonly onEvents: (events: readonly HubEvent[], skipped: number) => void;
  /** The hub refused to answer, with its reason; "" when it answers again. */
  readonly onTrouble?: (text: string) => void;
  /** The hub was deleted, or replaced by one that is shorter. */
  readonly onReset?: () => void;
}

const PAGE_LIMIT = 1_000;

export class Follower {
  #positions = new Map<number, number>();
  #running = false;
  #stopped = new AbortController();

  constructor(
    readonly hub: string,
    private readonly options: FollowerOptions,
  ) {}

  /** End following; a page under way is dropped. */
  stop(): void {
    this.#stopped.abort();
  }

  /** Look at a tick: read what is new. At most one reading is under way; a tick that finds it busy does nothing. */
  async take(tick: Tick): Promise<void> {
    if (this.#running || this.#stopped.signal.aborted) return;
    this.#running = true;
    try {
      await this.#catchUp(tick);
      this.options.onTrouble?.("");
    } catch (error) {
      // The hub is away or the page is late: positions stand, the next tick reads on from them.
      if (error instanceof ApiError) this.options.onTrouble?.(error.message);
    } finally {
      this.#running = false;
    }
  }

  async #catchUp(tick: Tick): Promise<void> {
    const hub = tick.hubs.find((one) => one.name === this.hub);
    const wanted = hub?.bounds.filter((one) => this.#wants(one)) ?? [];
    if (this.#replaced(wanted)) {
      this.#positions.clear();
      this.options.onReset?.();
    }
    const share = Math.max(1, Math.ceil(this.options.last / Math.max(1, wanted.length)));
    await Promise.all(wanted.map((bounds) => this.#readOn(bounds, share)));
  }

  #wants(bounds: Bounds): boolean {
    return this.options.partition === undefined || bounds.partition === this.options.partition;
  }

  #replaced(wanted: readonly Bounds[]): boolean {
    if (this.#positions.size === 0) return false;
    return wanted.length === 0 || wanted.some((one) => (this.#positions.get(one.partition) ?? 0) > one.end);
  }

  async #readOn(bounds: Bounds, share: number): Promise<void> {
    const floor = Math.max(bounds.start, bounds.end - share);
    const before = this.#positions.get(bounds.partition);
    let position = Math.max(before ?? floor, floor);
    let skipped = before === undefined ? 0 : position - before;
    this.#positions.set(bounds.partition, position);
    while (position < bounds.end) {
      const limit = Math.min(PAGE_LIMIT, bounds.end - position);
      const page = await fetchEvents(this.hub, bounds.partition, position, limit, this.#stopped.signal, this.options.where);
      if (this.#stopped.signal.aborted) return;
      if (page.events.length === 0 && page.next <= position) return;
      position = page.next;
      this.#positions.set(bounds.partition, position);
      if (page.events.length || skipped) this.options.onEvents(page.events, skipped);
      skipped = 0;
    }
  }
}
