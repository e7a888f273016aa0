/** A usage point's readings as a chart draws them and a table tells them. */
import type { Reading } from "./api";

const ESTIMATED: ReadonlySet<string> = new Set(["8", "12"]);

/** What a CIM quality code is in a word; the code itself says more. */
export function qualityWord(quality: string): string {
  if (!quality) return "measured";
  const [, category = "", sub = ""] = quality.split(".");
  if (quality === "3.8.65535") return "taken back";
  if (category === "8") return "estimated";
  if (category === "12") return "projected";
  if (category === "11") return "derived";
  if (category === "7") return "edited";
  if (category === "5" || category === "6") return "questionable";
  return category === "0" && sub === "0" ? "measured" : "measured, marked";
}

/** Whether a value was put where a measurement is missing. */
export function isEstimate(reading: Reading): boolean {
  return ESTIMATED.has(reading.quality.split(".")[1] ?? "");
}

/** Columns for a chart: times in seconds, measured values, estimates. A missing interval is a gap. */
export function columnsOf(readings: readonly Reading[]): [number[], (number | null)[], (number | null)[]] {
  const [times, measured, estimated]: [number[], (number | null)[], (number | null)[]] = [[], [], []];
  let beforeMs = Number.NaN;
  for (const reading of readings) {
    const ms = Date.parse(reading.ts_end);
    const stepMs = reading.interval_s * 1000;
    if (stepMs > 0 && ms - beforeMs > stepMs * 1.5) {
      times.push((beforeMs + stepMs) / 1000);
      measured.push(null);
      estimated.push(null);
    }
    beforeMs = ms;
    times.push(ms / 1000);
    const estimate = isEstimate(reading);
    measured.push(estimate ? null : reading.value);
    estimated.push(estimate ? reading.value : null);
  }
  return [times, measured, estimated];
}
