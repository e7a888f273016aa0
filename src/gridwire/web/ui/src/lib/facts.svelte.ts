/** Facts of the grid by unit: the newest intervals of every transformer or feeder, the highest version of each. */
import type { HubEvent, Tick } from "./api";
import { Follower } from "./follower";
import { live } from "./live.svelte";

export interface Fact {
  /** End of the interval, milliseconds UTC. */
  readonly ts: number;
  readonly intervalS: number;
  readonly importKwh: number;
  readonly exportKwh: number;
  readonly loadKw: number;
  readonly count: number;
  readonly expected: number;
  readonly maxKw: number;
  readonly peakKw: number;
  readonly peakAt: number;
  readonly ratedKva: number | null;
  readonly version: number;
}

export interface Unit {
  readonly name: string;
  /** The transformer a feeder lies under. */
  readonly parent: string | null;
  /** Oldest first. */
  readonly facts: readonly Fact[];
}

/** Two days of quarter hours. */
export const INTERVALS_MAX = 192;
/** More units than this are not kept: the oldest known ones stay. */
export const UNITS_MAX = 5_000;
const HISTORY_EVENTS = 6_000;

interface Entry {
  name: string;
  parent: string | null;
  facts: Fact[];
}

function num(value: unknown, otherwise = 0): number {
  const number = typeof value === "string" ? Number.parseFloat(value) : value;
  return typeof number === "number" && Number.isFinite(number) ? number : otherwise;
}

/** Read one fact event; null when it is none. */
export function readFact(value: unknown, unitField: string): { name: string; parent: string | null; fact: Fact } | null {
  if (typeof value !== "object" || value === null) return null;
  const raw = value as Record<string, unknown>;
  const name = raw[unitField];
  const ts = Date.parse(String(raw["ts_end"]));
  if (typeof name !== "string" || Number.isNaN(ts)) return null;
  const parent = unitField !== "transformer" && typeof raw["transformer"] === "string" ? raw["transformer"] : null;
  const rated = num(raw["rated_kva"]);
  const loadKw = num(raw["load_kw"]);
  const peakAt = Date.parse(String(raw["peak_at"]));
  const fact: Fact = {
    ts,
    intervalS: num(raw["interval_s"], 900),
    importKwh: num(raw["import_kwh"]),
    exportKwh: num(raw["export_kwh"]),
    loadKw,
    count: num(raw["count"]),
    expected: num(raw["expected"]),
    maxKw: num(raw["max_kw"]),
    peakKw: num(raw["peak_kw"], loadKw),
    peakAt: Number.isNaN(peakAt) ? ts : peakAt,
    ratedKva: rated > 0 ? rated : null,
    version: num(raw["version"]),
  };
  return { name, parent, fact };
}

/** Put a fact into its place; an older version of a known interval changes nothing. */
export function placeFact(facts: Fact[], fact: Fact): boolean {
  let at = facts.length;
  while (at > 0 && (facts[at - 1] as Fact).ts > fact.ts) at -= 1;
  const known = facts[at - 1];
  if (known?.ts === fact.ts) {
    if (known.version > fact.version) return false;
    facts[at - 1] = fact;
    return true;
  }
  if (at === 0 && facts.length >= INTERVALS_MAX) return false;
  facts.splice(at, 0, fact);
  if (facts.length > INTERVALS_MAX) facts.shift();
  return true;
}

/** The facts of one hub, followed while somebody watches. */
export class Facts {
  /** Moves when anything changed: reading it is how a view depends on the facts. */
  revision = $state(0);
  /** The newest interval end of all units. */
  newest = $state<number | null>(null);
  #entries = new Map<string, Entry>();
  #follower: Follower;
  #watchers = 0;
  #stop: (() => void) | undefined;

  constructor(
    readonly hub: string,
    private readonly unitField: string,
  ) {
    this.#follower = new Follower(hub, {
      last: HISTORY_EVENTS,
      onEvents: (events) => this.#take(events),
      onReset: () => this.#clear(),
    });
  }

  /** Follow the hub until the returned function is called; what is known stays for the next watcher. */
  watch(): () => void {
    this.#watchers += 1;
    this.#stop ??= live.onTick((tick: Tick) => void this.#follower.take(tick));
    return () => {
      this.#watchers -= 1;
      if (this.#watchers > 0) return;
      this.#stop?.();
      this.#stop = undefined;
    };
  }

  /** All units, in no order. */
  units(): Unit[] {
    void this.revision;
    return Array.from(this.#entries.values(), ({ name, parent, facts }) => ({ name, parent, facts }));
  }

  /** One unit. */
  unit(name: string): Unit | null {
    void this.revision;
    const entry = this.#entries.get(name);
    return entry ? { ...entry } : null;
  }

  #take(events: readonly HubEvent[]): void {
    let changed = false;
    for (const event of events) {
      const read = readFact(event.value, this.unitField);
      if (!read) continue;
      const entry = this.#entry(read.name, read.parent);
      if (!entry || !placeFact(entry.facts, read.fact)) continue;
      changed = true;
      if (read.fact.ts > (this.newest ?? Number.NEGATIVE_INFINITY)) this.newest = read.fact.ts;
    }
    if (changed) this.revision += 1;
  }

  #entry(name: string, parent: string | null): Entry | null {
    const known = this.#entries.get(name);
    if (known) {
      if (parent !== null) known.parent = parent;
      return known;
    }
    if (this.#entries.size >= UNITS_MAX) return null;
    const entry: Entry = { name, parent, facts: [] };
    this.#entries.set(name, entry);
    return entry;
  }

  #clear(): void {
    this.#entries.clear();
    this.newest = null;
    this.revision += 1;
  }
}

export const transformers = new Facts("grid.transformers", "transformer");
export const feeders = new Facts("grid.feeders", "feeder");
