/** What the bytes of an event mean: JSON, a CloudEvent, a reading, Avro with its schema, text, or bytes. */
import { SvelteMap } from "svelte/reactivity";
import type { HubEvent } from "./api";
import { decodeAvro } from "./avro";
import { header, headerPairs, preview, valueBytes } from "./events";

/** How a person may ask to see values. */
export const SHOWN = ["json", "text", "hex"] as const;
export type Shown = (typeof SHOWN)[number] | "";

export type Kind = "Avro" | "CloudEvent" | "Reading" | "JSON" | "Text" | "Bytes" | "No value";

const AVRO = /^avro\/binary\+([0-9a-f]{8,64})$/;
const READING = ["usage_point", "ts_end", "reading_type", "value"];

/** Definitions by id, asked for once each: text, or why there is none. */
const schemas = new SvelteMap<string, { readonly text: string } | { readonly wrong: string }>();
const asked = new Set<string>();

function schema(id: string): { readonly text: string } | { readonly wrong: string } | undefined {
  if (!asked.has(id)) {
    asked.add(id);
    void fetch(`$schemaGroups/$schemas/${id}`).then(
      async (answer) => schemas.set(id, answer.ok ? { text: await answer.text() } : { wrong: "its schema is not in the registry" }),
      () => asked.delete(id),
    );
  }
  return schemas.get(id);
}

/** The id of the schema an Avro event was written with. */
export function schemaId(event: HubEvent): string | null {
  return AVRO.exec(header(event, "content-type"))?.[1] ?? null;
}

/** What was read before: a table asks for the same event again with every tick. */
const read = new WeakMap<HubEvent, AvroRead>();

type AvroRead = { readonly value: unknown } | { readonly wrong: string };

/** Avro as a value, or why it is not shown as one; null for what is no Avro. */
export function avroOf(event: HubEvent): AvroRead | null {
  const id = schemaId(event);
  if (id === null || event.value === null) return null;
  const found = schema(id);
  if (!found) return { wrong: "its schema is on its way" };
  if ("wrong" in found) return found;
  const known = read.get(event) ?? readAvro(event, found.text);
  read.set(event, known);
  return known;
}

function readAvro(event: HubEvent, definition: string): AvroRead {
  const { bytes, exact } = valueBytes(event);
  if (!exact) return { wrong: "its bytes read as JSON by chance" };
  try {
    return { value: decodeAvro(definition, bytes) };
  } catch (error) {
    return { wrong: error instanceof Error ? error.message : String(error) };
  }
}

/** The value fields are taken from. */
export function decodedValue(event: HubEvent): unknown {
  const avro = avroOf(event);
  return avro && "value" in avro ? avro.value : event.format === "json" ? event.value : undefined;
}

/** What an event is. */
export function kindOf(event: HubEvent): Kind {
  if (event.value === null || event.value === undefined) return "No value";
  if (schemaId(event) !== null) return "Avro";
  if (header(event, "ce_specversion")) return "CloudEvent";
  if (event.format === "json") {
    const { value } = event;
    const isReading = typeof value === "object" && value !== null && READING.every((name) => name in value);
    return isReading ? "Reading" : "JSON";
  }
  return event.format === "text" ? "Text" : "Bytes";
}

/** The facts a CloudEvent or reading is known by, for a person: names and texts. */
export function factsOf(event: HubEvent): readonly (readonly [string, string])[] {
  const kind = kindOf(event);
  if (kind === "CloudEvent") {
    return headerPairs(event.headers).filter(([name]) => name.startsWith("ce_")).map(([name, value]) => [name.slice(3), value] as const);
  }
  if (kind !== "Reading") return [];
  return Object.entries(event.value as Record<string, unknown>).map(
    ([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)] as const,
  );
}

/** One line of a value for a table, as a person asked to see it. */
export function lineOf(event: HubEvent, show: Shown): string {
  if (show === "hex") {
    const { bytes } = valueBytes(event);
    return Array.from(bytes.subarray(0, 64), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  }
  if (show === "text" && event.format === "base64") return new TextDecoder().decode(valueBytes(event).bytes.subarray(0, 400));
  const avro = show === "" ? avroOf(event) : null;
  return avro && "value" in avro ? JSON.stringify(avro.value).slice(0, 400) : preview(event);
}
