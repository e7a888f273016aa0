/** Fields of events, named as in the hub's filters (docs/reference/http.md): the columns of a table. */
import { decodedValue } from "./decode.svelte";
import type { HubEvent } from "./api";
import { eventTime, header, plain, preview } from "./events";
import { instantOf } from "./format";

/** Names between commas, each once. */
export function fieldNames(text: string): readonly string[] {
  return [...new Set(text.split(",").map((name) => name.trim()).filter(Boolean))];
}

function at(value: unknown, path: readonly string[]): unknown {
  let found = value;
  for (const part of path) {
    if (typeof found !== "object" || found === null || !Object.hasOwn(found, part)) return undefined;
    found = (found as Record<string, unknown>)[part];
  }
  return found;
}

/** A field of an event as text; "" where there is none. */
export function fieldText(event: HubEvent, name: string): string {
  if (name === "key") return plain(event.key);
  if (name === "timestamp") return instantOf(eventTime(event));
  if (name === "partition" || name === "offset") return String(event[name]);
  if (name.startsWith("header.")) return header(event, name.slice("header.".length));
  const value = decodedValue(event);
  if (name === "value" && at(value, ["value"]) === undefined) return preview(event);
  return plain(at(value, name.replace(/^value\./, "").split(".")));
}
