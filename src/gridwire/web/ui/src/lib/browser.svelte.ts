/** The events a hub view shows: the newest ones as they come, or one page from an offset. */
import { fetchEvents, type EventPage, type HubEvent } from "./api";
import { eventId, eventTime } from "./events";
import { Follower } from "./follower";
import { live } from "./live.svelte";

/** Events kept by a live view. */
export const ROWS_MAX = 500;
/** The newest events read per tick: what a person can still look at. */
export const CATCH_UP = 200;
/** Events of one page from an offset. */
export const PAGE = 100;

/** The newest events of a hub, newest first. */
export class Tail {
  events = $state.raw<readonly HubEvent[]>([]);
  /** Events left out as they came faster than a person reads. */
  skipped = $state(0);
  paused = $state(false);
  #held: { events: HubEvent[]; skipped: number } = { events: [], skipped: 0 };
  #follower: Follower;
  #stop: () => void;

  constructor(hub: string, partition: number | undefined) {
    this.#follower = new Follower(hub, {
      last: CATCH_UP,
      partition,
      onEvents: (events, skipped) => this.#take(events, skipped),
      onReset: () => {
        this.events = [];
        this.skipped = 0;
      },
    });
    this.#stop = live.onTick((tick) => {
      if (!this.paused) void this.#follower.take(tick);
    });
  }

  /** Let the view stand still, or go on. */
  pause(paused: boolean): void {
    this.paused = paused;
    if (paused) return;
    const { events, skipped } = this.#held;
    this.#held = { events: [], skipped: 0 };
    this.#take(events, skipped);
  }

  /** End following. */
  close(): void {
    this.#stop();
    this.#follower.stop();
  }

  #take(events: readonly HubEvent[], skipped: number): void {
    if (this.paused) {
      // Read before the pause and come after it: shown when the view goes on.
      this.#held.events.push(...events);
      this.#held.skipped += skipped;
      return;
    }
    this.skipped += skipped;
    const known = new Set(this.events.map(eventId));
    const fresh = events.filter((event) => !known.has(eventId(event)));
    const all = [...fresh, ...this.events];
    all.sort((a, b) => eventTime(b) - eventTime(a) || a.partition - b.partition || b.offset - a.offset);
    this.events = all.slice(0, ROWS_MAX);
  }
}

/** One page of one partition, oldest first. */
export class Page {
  page = $state.raw<EventPage | null>(null);
  trouble = $state("");
  #leaving = new AbortController();

  constructor(hub: string, partition: number, offset: number) {
    fetchEvents(hub, partition, offset, PAGE, this.#leaving.signal).then(
      (page) => (this.page = page),
      (error: unknown) => {
        if (!this.#leaving.signal.aborted) this.trouble = error instanceof Error ? error.message : String(error);
      },
    );
  }

  /** Drop a page still under way. */
  close(): void {
    this.#leaving.abort();
  }
}
