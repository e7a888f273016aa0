/** Numbers, sizes and times as text. Everything is UTC and says so; digits are grouped the same everywhere. */

const WHOLE = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
const ONE = new Intl.NumberFormat("en-GB", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const TWO = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 2 });

export const MISSING = "–";

/** A number and its unit, apart so that the unit can be set smaller. */
export interface Quantity {
  readonly number: string;
  readonly unit: string;
}

function known(value: number | null | undefined): value is number {
  return typeof value === "number" && Number.isFinite(value);
}

/** A whole number with grouped digits: 1,234,567. */
export function whole(value: number | null | undefined): string {
  return known(value) ? signed(WHOLE.format(value)) : MISSING;
}

/** A measured value: one decimal below 1,000, none above. */
export function decimal(value: number | null | undefined): string {
  if (!known(value)) return MISSING;
  const text = Math.abs(value) >= 1000 ? WHOLE.format(value) : ONE.format(value);
  return signed(text);
}

/** A rating: whole where it is. */
export function rating(value: number | null | undefined): string {
  return known(value) && Number.isInteger(value) ? whole(value) : decimal(value);
}

/** A minus sign as typography has it, and none before a zero. */
function signed(text: string): string {
  if (!text.startsWith("-")) return text;
  return /[1-9]/.test(text) ? `\u2212${text.slice(1)}` : text.slice(1);
}

function scaled(value: number, step: number, units: readonly string[]): Quantity {
  let scale = 0;
  let rest = value;
  while (Math.abs(rest) >= step * 0.9995 && scale < units.length - 1) {
    rest /= step;
    scale += 1;
  }
  const number = scale === 0 ? WHOLE.format(rest) : rest >= 100 ? WHOLE.format(rest) : rest >= 10 ? ONE.format(rest) : TWO.format(rest);
  return { number, unit: units[scale] ?? "" };
}

/** A count in full up to `fullTo`, then as 12.3 M. */
export function count(value: number | null | undefined, fullTo = 10_000_000): Quantity {
  if (!known(value)) return { number: MISSING, unit: "" };
  if (Math.abs(value) < fullTo) return { number: WHOLE.format(value), unit: "" };
  return scaled(value / 1000, 1000, ["k", "M", "G", "T"]);
}

/** A size in decimal units: 1.2 MB. */
export function bytes(value: number | null | undefined): Quantity {
  return known(value) ? scaled(value, 1000, ["B", "kB", "MB", "GB", "TB", "PB"]) : { number: MISSING, unit: "" };
}

/** A quantity as one string. */
export function joined(quantity: Quantity): string {
  return quantity.unit ? `${quantity.number}\u00a0${quantity.unit}` : quantity.number;
}

/** Bytes as one string. */
export function bytesText(value: number | null | undefined): string {
  return joined(bytes(value));
}

/** A span: 850 ms, 12 s, 3 min 5 s, 2 h 3 min, 4 d 2 h. */
export function duration(seconds: number | null | undefined): string {
  if (!known(seconds) || seconds < 0) return MISSING;
  if (seconds === 0) return "0\u00a0s";
  if (seconds < 1) return `${Math.max(1, Math.round(seconds * 1000))}\u00a0ms`;
  if (seconds < 60) return `${seconds < 10 && !Number.isInteger(seconds) ? ONE.format(seconds) : Math.floor(seconds)}\u00a0s`;
  const total = Math.floor(seconds);
  if (total < 3600) return pair(Math.floor(total / 60), "min", total % 60, "s");
  if (total < 86_400) return pair(Math.floor(total / 3600), "h", Math.floor((total % 3600) / 60), "min");
  return pair(Math.floor(total / 86_400), "d", Math.floor((total % 86_400) / 3600), "h");
}

function pair(large: number, largeUnit: string, small: number, smallUnit: string): string {
  const first = `${large}\u00a0${largeUnit}`;
  return small ? `${first} ${small}\u00a0${smallUnit}` : first;
}

function iso(ms: number | null | undefined): string | null {
  if (!known(ms) || Math.abs(ms) > 8.64e15) return null;
  return new Date(ms).toISOString();
}

/** 2016-01-01 00:15 */
export function minuteOf(ms: number | null | undefined): string {
  return iso(ms)?.slice(0, 16).replace("T", " ") ?? MISSING;
}

/** 00:15 */
export function clockOf(ms: number | null | undefined): string {
  return iso(ms)?.slice(11, 16) ?? MISSING;
}

/** 00:15:07 */
export function secondOf(ms: number | null | undefined): string {
  return iso(ms)?.slice(11, 19) ?? MISSING;
}

/** 2016-01-01 00:15:07.123 */
export function instantOf(ms: number | null | undefined): string {
  return iso(ms)?.slice(0, 23).replace("T", " ") ?? MISSING;
}

/** How long ago, in one unit: 12 s ago. */
export function ago(ms: number | null | undefined, nowMs: number): string {
  if (!known(ms)) return MISSING;
  const seconds = Math.max(0, Math.round((nowMs - ms) / 1000));
  if (seconds < 2) return "now";
  if (seconds < 60) return `${seconds}\u00a0s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}\u00a0min ago`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)}\u00a0h ago`;
  return `${Math.floor(seconds / 86_400)}\u00a0d ago`;
}

/** What a field for date and time holds, as UTC in RFC 3339: such a field leaves seconds out where they are 0. */
export function utcOf(local: string): string {
  return `${local.length === "2026-01-01T00:00".length ? `${local}:00` : local}Z`;
}
