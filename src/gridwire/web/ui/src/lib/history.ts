/** The last five minutes of the hub's rates, as columns a chart can draw; kept over a reload of the page. */
import type { Rates } from "./api";

export const HISTORY_SPAN_S = 300;

const STORE = "gridwire.rates";

type Row = readonly [t: number, inEvents: number, outEvents: number, inBytes: number, outBytes: number];

export class RateHistory {
  #rows: Row[] = [];

  /** Take one second; a second already known is replaced, one from before a gap stays. */
  add(tMs: number, rates: Rates): void {
    const row: Row = [tMs / 1000, rates.in_events_s, rates.out_events_s, rates.in_bytes_s, rates.out_bytes_s];
    let at = this.#rows.length;
    while (at > 0 && (this.#rows[at - 1] as Row)[0] > row[0]) at -= 1;
    if (at > 0 && (this.#rows[at - 1] as Row)[0] === row[0]) this.#rows[at - 1] = row;
    else this.#rows.splice(at, 0, row);
    const oldest = (this.#rows[this.#rows.length - 1] as Row)[0] - HISTORY_SPAN_S - 5;
    let drop = 0;
    while ((this.#rows[drop] as Row)[0] < oldest) drop += 1;
    if (drop) this.#rows.splice(0, drop);
  }

  /** Columns t, in and out (events per second); a gap of more than three seconds is drawn as one. */
  columns(): [number[], (number | null)[], (number | null)[]] {
    const t: number[] = [];
    const inEvents: (number | null)[] = [];
    const outEvents: (number | null)[] = [];
    let before = Number.POSITIVE_INFINITY;
    for (const row of this.#rows) {
      if (row[0] - before > 3.5) {
        t.push(before + 1);
        inEvents.push(null);
        outEvents.push(null);
      }
      t.push(row[0]);
      inEvents.push(row[1]);
      outEvents.push(row[2]);
      before = row[0];
    }
    return [t, inEvents, outEvents];
  }

  /** Keep the rows for a reload of this tab. */
  save(startedAt: string): void {
    try {
      sessionStorage.setItem(STORE, JSON.stringify([startedAt, this.#rows]));
    } catch {
      // Storage may be full or forbidden: the chart then starts empty.
    }
  }

  /** Bring back what a reload left, if it is of the same hub. */
  restore(startedAt: string): void {
    try {
      const [hub, rows] = JSON.parse(sessionStorage.getItem(STORE) ?? "[]") as [string?, Row[]?];
      if (hub !== startedAt || !rows) return;
      const known = new Set(this.#rows.map((row) => row[0]));
      this.#rows = [...rows.filter((row) => !known.has(row[0])), ...this.#rows].sort((a, b) => a[0] - b[0]);
    } catch {
      // Not ours, or damaged: start empty.
    }
  }
}
