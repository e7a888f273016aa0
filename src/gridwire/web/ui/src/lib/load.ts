/** What a view says about a unit's newest fact: how loaded, how complete, how late. */
import type { Fact, Unit } from "./facts.svelte";

/** From here on a unit is watched; at 1 it is above its rating. */
export const HIGH = 0.8;

export type Level = "normal" | "high" | "over" | "unrated";

export interface Row {
  readonly unit: Unit;
  readonly name: string;
  readonly fact: Fact;
  /** Load over rating, negative when the unit feeds back; null without a rating. */
  readonly share: number | null;
  /** The day's highest load over rating. */
  readonly peak: number | null;
  readonly level: Level;
  readonly exporting: boolean;
  /** Its newest interval is older than the grid's newest. */
  readonly late: boolean;
}

/** Power (kW) over rating (kVA): at a power factor of one the loading of the transformer. */
export function shareOf(fact: Fact): number | null {
  return fact.ratedKva === null ? null : fact.loadKw / fact.ratedKva;
}

/** How a share is judged, either direction alike. */
export function levelOf(share: number | null): Level {
  if (share === null) return "unrated";
  const size = Math.abs(share);
  return size >= 1 ? "over" : size >= HIGH ? "high" : "normal";
}

/** What the grid's colours tell. */
export type Paint = "load" | "voltage";

export type VoltageLevel = "normal" | "high" | "low" | "over" | "unrated";

/** How a voltage is judged: within 5 % of nominal, within 10 % above or below it, beyond. */
export function voltageLevelOf(pu: number | null): VoltageLevel {
  if (pu === null) return "unrated";
  const off = pu - 1;
  if (Math.abs(off) > 0.1) return "over";
  return Math.abs(off) <= 0.05 ? "normal" : off > 0 ? "high" : "low";
}

/** A unit's row; null while it has no fact. */
export function rowOf(unit: Unit, newest: number | null): Row | null {
  const fact = unit.facts[unit.facts.length - 1];
  if (!fact) return null;
  const share = shareOf(fact);
  return {
    unit,
    name: unit.name,
    fact,
    share,
    peak: fact.ratedKva === null ? null : fact.peakKw / fact.ratedKva,
    level: levelOf(share),
    exporting: fact.loadKw < 0,
    late: newest !== null && newest - fact.ts > fact.intervalS * 1000,
  };
}

export type Order = "share" | "load" | "peak" | "missing" | "name";

export const ORDERS: readonly { readonly id: Order; readonly label: string }[] = [
  { id: "share", label: "% of rating" },
  { id: "load", label: "load" },
  { id: "peak", label: "day peak" },
  { id: "missing", label: "missing readings" },
  { id: "name", label: "name" },
];

const collator = new Intl.Collator("en-GB", { numeric: true });

function measure(row: Row, order: Order): number {
  if (order === "load") return Math.abs(row.fact.loadKw);
  if (order === "peak") return row.fact.peakKw;
  if (order === "missing") return row.fact.expected - row.fact.count;
  return Math.abs(row.share ?? -1);
}

/** Rows of all units with facts, largest first; ties and "name" in natural order of names. */
export function rowsOf(units: readonly Unit[], newest: number | null, order: Order): Row[] {
  const rows = units.map((unit) => rowOf(unit, newest)).filter((row) => row !== null);
  return rows.sort((a, b) => {
    const larger = order === "name" ? 0 : measure(b, order) - measure(a, order);
    return larger || collator.compare(a.name, b.name);
  });
}

/** A share as text: 84 %, −12 %. */
export function percent(share: number | null): string {
  if (share === null) return "–";
  const rounded = Math.round(share * 100);
  return `${rounded < 0 ? "\u2212" : ""}${Math.abs(rounded)}\u00a0%`;
}
