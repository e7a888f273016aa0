/** What of an answer can be drawn, and how its values read. */
import type { SqlAnswer, SqlColumn } from "./api";

const NUMBER = /^(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|DOUBLE|FLOAT|DECIMAL)/;

/** Whether a column holds times. */
export function isTime(column: SqlColumn): boolean {
  return column.type.startsWith("TIMESTAMP") || column.type === "DATE";
}

/** Whether a column holds numbers. */
export function isNumber(column: SqlColumn): boolean {
  return NUMBER.test(column.type);
}

/** A value in one line of text. */
export function shown(value: unknown): string {
  if (value === null) return "";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Seconds and series of an answer with a time and numbers, in the order of time; null for another. */
export function series(answer: SqlAnswer): { readonly names: readonly string[]; readonly data: (number | null)[][] } | null {
  const time = answer.columns.findIndex(isTime);
  const numbers = answer.columns.flatMap((column, place) => (isNumber(column) ? [place] : [])).slice(0, 6);
  if (time < 0 || !numbers.length || !answer.rows.length) return null;
  const rows = answer.rows
    .map((row) => ({ at: Date.parse(String(row[time])) / 1000, row }))
    .filter((each) => Number.isFinite(each.at))
    .sort((one, other) => one.at - other.at);
  const column = (place: number): (number | null)[] =>
    rows.map(({ row }) => (typeof row[place] === "number" ? row[place] : null));
  return { names: numbers.map((place) => answer.columns[place]?.name ?? ""), data: [rows.map(({ at }) => at), ...numbers.map(column)] };
}

/** Bars drawn of an answer. */
export const BARS = 40;

/** What each row is called and its numbers, where an answer has names and numbers but no time; null for another. */
export function bars(answer: SqlAnswer): { readonly names: readonly string[]; readonly rows: readonly { readonly label: string; readonly values: readonly (number | null)[] }[] } | null {
  const label = answer.columns.findIndex((column) => column.type === "VARCHAR" || column.type === "BOOLEAN" || column.type.startsWith("ENUM"));
  const numbers = answer.columns.flatMap((column, place) => (isNumber(column) ? [place] : [])).slice(0, 3);
  if (label < 0 || !numbers.length || !answer.rows.length) return null;
  const value = (row: readonly unknown[], place: number): number | null => (typeof row[place] === "number" ? row[place] : null);
  const rows = answer.rows.slice(0, BARS).map((row) => ({ label: shown(row[label]), values: numbers.map((place) => value(row, place)) }));
  return { names: numbers.map((place) => answer.columns[place]?.name ?? ""), rows };
}
