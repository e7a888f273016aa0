/** The events a hub view shows: the newest ones as they come, or one page from some place. */
import { ApiError, fetchEvents, fetchHub, textOf, type Hub, type HubEvent, type Tick } from "./api";
import { eventId, eventTime } from "./events";
import { Follower } from "./follower";
import { live } from "./live.svelte";

/** Events kept by a live view. */
export const ROWS_MAX = 500;
/** The newest events read per tick: what a person can still look at. */
export const CATCH_UP = 200;
/** Events that a live view with a filter searches per tick, over all partitions; it begins so far back. */
export const SEARCH = 100_000;
/** Events of one page. */
export const PAGE = 100;
/** Events asked of all partitions together, and of each one at least: a page of a hub with many stays small. */
const PAGES_TOGETHER = 4 * PAGE;
const SHARE_LEAST = 10;
/** Partitions read at once: a browser has six connections to a hub, over all tabs. */
const AT_ONCE = 3;

/**
 * A hub that is shown, at every tick. The platform's own hubs are not part of a tick: they are asked for.
 */
export class Watched {
  hub = $state.raw<Hub | null>(null);
  /** Asked, and not there. */
  missing = $state(false);
  #busy = false;
  #leaving = new AbortController();
  #stop: () => void;

  constructor(
    private readonly name: string,
    private readonly onTick: (tick: Tick) => void,
  ) {
    this.#stop = live.onTick((tick) => void this.#take(tick));
  }

  /** End watching. */
  close(): void {
    this.#stop();
    this.#leaving.abort();
  }

  async #take(tick: Tick): Promise<void> {
    const known = tick.hubs.find((one) => one.name === this.name);
    if (known) return this.#show(known, tick);
    if (this.#busy) return;
    this.#busy = true;
    try {
      this.#show(await fetchHub(this.name, this.#leaving.signal), tick);
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) this.#show(null, tick);
    } finally {
      this.#busy = false;
    }
  }

  #show(hub: Hub | null, tick: Tick): void {
    this.hub = hub;
    this.missing = hub === null;
    this.onTick(hub ? { ...tick, hubs: [hub] } : tick);
  }
}

/** The newest events of a hub, newest first. */
export class Tail {
  events = $state.raw<readonly HubEvent[]>([]);
  /** Events left out as they came faster than a person reads. */
  skipped = $state(0);
  paused = $state(false);
  /** Why the hub does not answer. */
  trouble = $state("");
  #held: { events: HubEvent[]; skipped: number } = { events: [], skipped: 0 };
  #follower: Follower;

  constructor(hub: string, partition: number | undefined, where: string) {
    this.#follower = new Follower(hub, {
      last: where ? SEARCH : CATCH_UP,
      partition,
      where,
      onTrouble: (text) => (this.trouble = text),
      onEvents: (events, skipped) => this.#take(events, skipped),
      onReset: () => {
        this.events = [];
        this.skipped = 0;
      },
    });
  }

  /** Read what is new, unless the view stands still. */
  take(tick: Tick): void {
    if (!this.paused) void this.#follower.take(tick);
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

/** Where each partition is to be read from: places as the API takes them. */
export type Places = ReadonlyMap<number, number | string>;

/** How far a partition was searched. */
interface Searched {
  readonly start: number;
  readonly end: number;
  /** Where the next page begins. */
  next: number;
  found: readonly HubEvent[];
}

/**
 * One page of events over some partitions, in the order of their times, read or searched from given places.
 *
 * With a filter the hub answers after a bounded stretch; the search asks on until the page is full or the end that the
 * hub had when it began is reached. It can be stopped, and says from where it would go on.
 */
export class Search {
  events = $state.raw<readonly HubEvent[]>([]);
  /** Where the next page begins, by partition. */
  next = $state.raw<Places>(new Map());
  /** Whether there is more behind this page. */
  more = $state(false);
  /** Offsets looked at, and those there are. */
  searched = $state(0);
  total = $state(0);
  busy = $state(true);
  trouble = $state("");
  /** The hub did not answer: the same may succeed later. */
  away = false;
  #parts = new Map<number, Searched>();
  /** Events asked of one partition. */
  readonly #share: number;
  #leaving = new AbortController();

  constructor(
    private readonly hub: string,
    private readonly places: Places,
    private readonly where: string,
  ) {
    this.#share = Math.min(PAGE, Math.max(SHARE_LEAST, Math.ceil(PAGES_TOGETHER / Math.max(1, places.size))));
    void this.#run();
  }

  /** End a search; what was found stays. */
  stop(): void {
    this.#leaving.abort();
  }

  async #run(): Promise<void> {
    const waiting = [...this.places];
    const work = async (): Promise<void> => {
      for (let one = waiting.shift(); one; one = waiting.shift()) await this.#partition(...one);
    };
    try {
      await Promise.all(Array.from({ length: AT_ONCE }, work));
    } catch (error) {
      if (!this.#leaving.signal.aborted) {
        this.trouble = textOf(error);
        this.away = !(error instanceof ApiError);
      }
      this.#leaving.abort();
    }
    this.#settle();
    this.busy = false;
  }

  async #partition(partition: number, place: number | string): Promise<void> {
    let from = this.where ? await this.#offsetOf(partition, place) : place;
    let one: Searched | undefined;
    do {
      const left = this.#share - (one?.found.length ?? 0);
      const page = await fetchEvents(this.hub, partition, from, left, this.#leaving.signal, this.where);
      const begun = typeof from === "number" ? Math.max(from, page.start) : (page.events[0]?.offset ?? page.next);
      one ??= { start: begun, end: page.end, next: page.next, found: [] };
      one.found = [...one.found, ...page.events];
      one.next = page.next;
      this.#parts.set(partition, one);
      this.#settle();
      // The hub stays where it is at the end, and before a transaction that is not decided.
      if (from === page.next) break;
      from = page.next;
    } while (one.found.length < this.#share && one.next < one.end);
  }

  async #offsetOf(partition: number, place: number | string): Promise<number> {
    if (typeof place === "number") return place;
    const page = await fetchEvents(this.hub, partition, place, 1, this.#leaving.signal);
    return page.events[0]?.offset ?? page.next;
  }

  /** What is known now, as a page: the earliest events of all partitions, and where each goes on. */
  #settle(): void {
    const found = [...this.#parts.values()].flatMap((one) => one.found);
    found.sort((a, b) => eventTime(a) - eventTime(b) || a.partition - b.partition || a.offset - b.offset);
    const known = Math.min(...[...this.#parts.values()].map(knownUntil));
    const shown = new Set(found.filter((event) => eventTime(event) <= known).slice(0, PAGE));
    const next = new Map(this.places);
    let more = this.#parts.size < this.places.size;
    this.searched = 0;
    this.total = 0;
    for (const [partition, one] of this.#parts) {
      const left = one.found.filter((event) => !shown.has(event)).map((event) => event.offset);
      const goesOn = left.length ? Math.min(...left) : one.next;
      next.set(partition, goesOn);
      more ||= goesOn < one.end;
      this.searched += Math.max(0, one.next - one.start);
      this.total += Math.max(0, one.end - one.start);
    }
    this.events = [...shown];
    this.next = next;
    this.more = more;
  }
}

/** Up to which time a partition's events are all here: later ones of others have to wait for its own. */
function knownUntil(part: Searched): number {
  const last = part.found.at(-1);
  return last && part.next < part.end ? eventTime(last) : Infinity;
}
