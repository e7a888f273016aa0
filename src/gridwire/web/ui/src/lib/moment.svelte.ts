/** Time travel: the grid as it was at the time that the address names (`?at=`), all parts of it together. */
import { ApiError, fetchGridAt, fetchGridTimes, type GridMoment, type UnitKind } from "./api";
import { readFact, type Fact, type Unit } from "./facts.svelte";
import { href, router } from "./router.svelte";

/** Facts as the lake has them, as units of one interval each. */
export function unitsOf(rows: readonly unknown[], kind: UnitKind): Unit[] {
  const read = rows.map((row) => readFact(row, kind)).filter((found) => found !== null);
  return read.map(({ name, parent, fact }) => ({ name, parent, facts: [fact] }));
}

/** Facts of one unit, oldest first. */
export function factsOf(rows: readonly unknown[], kind: UnitKind): Fact[] {
  return rows.map((row) => readFact(row, kind)?.fact).filter((fact) => fact !== undefined);
}

/** A time as addresses and the API spell it. */
export function isoOf(ms: number): string {
  return new Date(ms).toISOString().replace(".000Z", "Z");
}

/** The time of an address, milliseconds; null is now. */
export function timeOf(params: URLSearchParams): number | null {
  const ms = Date.parse(params.get("at") ?? "");
  return Number.isNaN(ms) ? null : ms;
}

/** The address of a unit of the grid, or of the whole, at the time that is looked at. */
export function gridHref(unit = "", params: Readonly<Record<string, string>> = {}): string {
  const at = router.place.params.get("at") ?? "";
  return href(unit ? ["grid", unit] : ["grid"], { at, ...params });
}

class Moment {
  /** What was read last; the one asked for once `shows` says so. */
  grid = $state.raw<GridMoment | null>(null);
  trouble = $state("");
  /** The first and last time there is; null while there is none. */
  span = $state.raw<{ readonly first: number; readonly last: number; readonly stepMs: number } | null>(null);
  #wanted: string | null = null;
  #reading = false;

  /** Whether a time is what `grid` tells of. */
  shows(ms: number): boolean {
    return this.grid?.time === isoOf(ms);
  }

  /** Ask which times there are. */
  async refreshSpan(): Promise<void> {
    try {
      const times = await fetchGridTimes();
      const [first, last] = [Date.parse(times.first ?? ""), Date.parse(times.last ?? "")];
      this.span = Number.isNaN(first) || Number.isNaN(last) ? null : { first, last, stepMs: times.interval_s * 1000 };
    } catch {
      this.span = null;
    }
  }

  /** Read the grid at a time; of times asked for meanwhile only the last one is read. */
  async go(ms: number | null): Promise<void> {
    this.#wanted = ms === null ? null : isoOf(ms);
    if (this.#wanted === null) this.trouble = "";
    if (this.#reading) return;
    this.#reading = true;
    try {
      while (this.#wanted !== null && this.#wanted !== this.grid?.time) {
        const asked: string = this.#wanted;
        try {
          this.grid = await fetchGridAt(asked);
          this.trouble = "";
        } catch (error) {
          if (asked !== this.#wanted) continue;
          this.trouble = error instanceof ApiError ? error.message : "The grid's past cannot be read at present.";
          return;
        }
      }
    } finally {
      this.#reading = false;
    }
  }
}

export const moment = new Moment();
