/** What can stand where the cursor is in a question to the lake. */
import type { SqlTable } from "./api";

export type Kind = "table" | "column" | "function" | "keyword";

export interface Offer {
  readonly text: string;
  readonly kind: Kind;
  readonly note: string;
}

export interface Offers {
  /** Where the word begins that an offer takes the place of. */
  readonly from: number;
  readonly found: readonly Offer[];
}

const MOST = 10;
const KEYWORDS =
  "select from where group by order by limit having join left join on using and or not in is null between like ilike case when then else end as distinct with union all asc desc interval qualify over partition by"
    .replace(/(group|order|partition) by/g, "$1_by")
    .replace("left join", "left_join")
    .split(" ")
    .map((word) => word.replace("_", " "));
const FUNCTIONS = [
  "abs", "arg_max", "arg_min", "avg", "coalesce", "corr", "count", "date_diff", "date_part", "date_trunc", "epoch", "greatest", "lag", "lead", "least",
  "list", "max", "median", "min", "now", "quantile_cont", "rank", "regexp_matches", "round", "row_number", "stddev", "strftime", "sum", "time_bucket",
];
const NO_ALIAS = new Set(["on", "using", "where", "group", "order", "limit", "join", "left", "right", "inner", "full", "cross", "having", "union", "qualify", "as"]);

/** Names that mean something else where they are not quoted. */
const RESERVED = new Set(
  "all analyse analyze and any array as asc asymmetric both case cast check collate column constraint create default deferrable desc describe distinct do else end except false fetch for foreign from grant group having in initially intersect into lambda lateral leading limit not null offset on only or order pivot placing primary qualify references returning select show some summarize symmetric table then to trailing true union unique unpivot using variadic when where window with".split(
    " ",
  ),
);

/** A name as SQL takes it; a table may be written with its dots. */
export function quoted(name: string, dots = false): string {
  const plain = (dots ? /^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*$/ : /^[a-z_][a-z0-9_]*$/).test(name);
  return plain && !RESERVED.has(name) ? name : `"${name.replaceAll('"', '""')}"`;
}

/** Offers for the cursor at `caret`; none inside of a text or a comment. */
export function offers(text: string, caret: number, tables: readonly SqlTable[], asked = false): Offers {
  const before = text.slice(0, caret);
  const word = /"?[A-Za-z_][\w.]*$|"$/.exec(before)?.[0] ?? "";
  const from = caret - word.length;
  if (within(before.slice(0, from))) return { from, found: [] };
  const last = /(\w+|,|\(|\S)\s*$/.exec(before.slice(0, from))?.[1]?.toLowerCase() ?? "";
  const naming = last === "from" || last === "join";
  if (!word && !naming && !asked) return { from, found: [] };
  const typed = word.replace(/^"/, "").toLowerCase();
  const known = mentioned(text, tables);
  const dot = typed.lastIndexOf(".");
  const owner = dot > 0 ? known.get(typed.slice(0, dot)) : undefined;
  if (owner) {
    const columns = owner.columns.map((column) => offer(column.name, "column", column.type));
    return { from: caret - (typed.length - dot - 1), found: chosen(columns, typed.slice(dot + 1)) };
  }
  const names = tables.map((table) => ({ ...offer(table.name, "table", `${table.rows.toLocaleString("en")} rows`), text: quoted(table.name, true) }));
  if (naming) return { from, found: chosen(names, typed) };
  const columns = [...new Map([...known.values()].flatMap((table) => table.columns.map((column) => [column.name, offer(column.name, "column", column.type)] as const))).values()];
  const rest = [...FUNCTIONS.map((name) => ({ text: `${name}(`, kind: "function" as const, note: "" })), ...KEYWORDS.map((name) => ({ text: name, kind: "keyword" as const, note: "" }))];
  return { from, found: chosen([...columns, ...rest, ...names], typed) };
}

function offer(name: string, kind: Kind, note: string): Offer {
  return { text: quoted(name), kind, note };
}

/** Those that begin with what is typed, then those that have it at the beginning of a part of the name. */
function chosen(all: readonly Offer[], typed: string): readonly Offer[] {
  const plain = (each: Offer): string => each.text.replaceAll('"', "").toLowerCase();
  const first = all.filter((each) => plain(each).startsWith(typed));
  const inner = typed.length > 1 ? all.filter((each) => !first.includes(each) && new RegExp(`[._]${escaped(typed)}`).test(plain(each))) : [];
  const found = [...first, ...inner].slice(0, MOST);
  return found.length === 1 && plain(found[0]!) === typed ? [] : found;
}

function escaped(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

/** Whether what follows lies in a text, a quoted name that has begun, or a comment. */
function within(before: string): boolean {
  const rest = before.replace(/'(?:[^']|'')*'/g, "").replace(/--[^\n]*\n/g, "").replace(/\/\*[\s\S]*?\*\//g, "");
  return rest.includes("'") || /--[^\n]*$/.test(rest) || rest.includes("/*");
}

/** Tables of the question by their names and the names it gives them. */
function mentioned(text: string, tables: readonly SqlTable[]): ReadonlyMap<string, SqlTable> {
  const byName = new Map(tables.map((table) => [table.name.toLowerCase(), table]));
  const found = new Map<string, SqlTable>();
  for (const match of text.matchAll(/\b(?:from|join)\s+("[^"]+"|[\w.]+)(?:\s+(?:as\s+)?(\w+))?/gi)) {
    const name = match[1]!.replaceAll('"', "").toLowerCase();
    const table = byName.get(name);
    if (!table) continue;
    found.set(name, table);
    const alias = match[2]?.toLowerCase();
    if (alias && !NO_ALIAS.has(alias)) found.set(alias, table);
  }
  return found;
}
