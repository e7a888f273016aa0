/** Reading the parts of an event, whatever its writer put into it. */
import type { HubEvent } from "./api";

const encoder = new TextEncoder();

/** Milliseconds since 1970 of an event's timestamp. */
export function eventTime(event: HubEvent): number {
  return typeof event.timestamp === "number" ? event.timestamp : Date.parse(event.timestamp);
}

/** An event's identity within its hub. */
export function eventId(event: HubEvent): string {
  return `${event.partition}:${event.offset}`;
}

function base64Of(value: unknown): string | null {
  if (typeof value !== "object" || value === null || Object.keys(value).length !== 1) return null;
  const text = (value as { base64?: unknown }).base64;
  return typeof text === "string" ? text : null;
}

/** Bytes of base64 text; text that is none gives its own bytes. */
export function fromBase64(text: string): Uint8Array {
  try {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  } catch {
    return encoder.encode(text);
  }
}

/** The bytes of a value. JSON comes parsed from the hub, so its spacing is not the writer's: `exact` is then false. */
export function valueBytes(event: HubEvent): { bytes: Uint8Array; exact: boolean } {
  const { value } = event;
  if (value === null || value === undefined) return { bytes: new Uint8Array(), exact: true };
  const packed = event.format === "json" ? null : base64Of(value);
  if (packed !== null) return { bytes: fromBase64(packed), exact: true };
  if (typeof value === "string" && event.format !== "json") return { bytes: encoder.encode(value), exact: true };
  return { bytes: encoder.encode(JSON.stringify(value)), exact: false };
}

/** A key or header value as text. */
export function plain(value: unknown): string {
  if (value === null || value === undefined) return "";
  if (typeof value === "string") return value;
  const packed = base64Of(value);
  if (packed === null) return JSON.stringify(value);
  const bytes = fromBase64(packed);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  }
}

/** Headers in order: an object, or a list of pairs as names may repeat. */
export function headerPairs(headers: unknown): [name: string, value: string][] {
  if (Array.isArray(headers)) {
    return headers.flatMap((one: unknown): [string, string][] => {
      if (Array.isArray(one)) return [[plain(one[0]), plain(one[1])]];
      if (typeof one !== "object" || one === null) return [];
      const { key, name, value } = one as { key?: unknown; name?: unknown; value?: unknown };
      return [[plain(key ?? name), plain(value)]];
    });
  }
  if (typeof headers !== "object" || headers === null) return [];
  return Object.entries(headers).map(([name, value]) => [name, plain(value)]);
}

/** The first header of a name, or "". */
export function header(event: HubEvent, name: string): string {
  return headerPairs(event.headers).find(([one]) => one === name)?.[1] ?? "";
}

/** One line of a value, for a table. */
export function preview(event: HubEvent, most = 400): string {
  const { value } = event;
  if (value === null || value === undefined) return "(no value)";
  const packed = event.format === "json" ? null : base64Of(value);
  if (packed !== null) return `${fromBase64(packed).length} bytes, not text`;
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > most ? `${text.slice(0, most)}…` : text;
}
