/**
 * Reads Avro binary with the schema it was written with. Source: Apache Avro 1.12 specification, "Binary Encoding".
 *
 * Bytes come from anybody: depth, items and every length are checked before anything is kept.
 */

type Schema = string | readonly Schema[] | Record<string, unknown>;

const DEPTH_MAX = 64;
const ITEMS_MAX = 100_000;
const utf8 = new TextDecoder("utf-8", { fatal: true });

class Reader {
  #at = 0;
  #items = 0;
  readonly #view: DataView;

  constructor(
    private readonly bytes: Uint8Array,
    private readonly names: Map<string, Schema>,
  ) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get done(): boolean {
    return this.#at === this.bytes.length;
  }

  read(schema: Schema, depth = 0): unknown {
    if (depth > DEPTH_MAX) throw new Error("it is nested too deep");
    if (++this.#items > ITEMS_MAX) throw new Error(`it has more than ${ITEMS_MAX} items`);
    if (typeof schema === "string") return this.#named(schema, depth);
    if (Array.isArray(schema)) return this.read(chosen(schema, this.#long()), depth + 1);
    return this.#complex(schema as Record<string, unknown>, depth);
  }

  #named(type: string, depth: number): unknown {
    switch (type) {
      case "null":
        return null;
      case "boolean":
        return this.#take(1)[0] === 1;
      case "int":
      case "long":
        return told(this.#long());
      case "float":
        return this.#view.getFloat32(this.#skip(4), true);
      case "double":
        return this.#view.getFloat64(this.#skip(8), true);
      case "bytes":
        return hex(this.#take(this.#size()));
      case "string":
        return utf8.decode(this.#take(this.#size()));
    }
    const known = this.names.get(type) ?? this.names.get(type.slice(type.lastIndexOf(".") + 1));
    if (known === undefined) throw new Error(`its schema does not say what ${type} is`);
    return this.read(known, depth + 1);
  }

  #complex(schema: Record<string, unknown>, depth: number): unknown {
    const { type } = schema;
    if (type === "record" || type === "error") return this.#record(schema["fields"] as readonly Record<string, unknown>[], depth);
    if (type === "enum") return chosen(schema["symbols"] as readonly unknown[], this.#long());
    if (type === "fixed") return hex(this.#take(Number(schema["size"])));
    if (type === "array") {
      const items: unknown[] = [];
      this.#blocks(() => items.push(this.read(schema["items"] as Schema, depth + 1)));
      return items;
    }
    if (type === "map") {
      const entries: [string, unknown][] = [];
      this.#blocks(() => entries.push([utf8.decode(this.#take(this.#size())), this.read(schema["values"] as Schema, depth + 1)]));
      return Object.fromEntries(entries);
    }
    return logical(schema["logicalType"], this.read(type as Schema, depth + 1));
  }

  #record(fields: readonly Record<string, unknown>[], depth: number): unknown {
    return Object.fromEntries(fields.map((field) => [String(field["name"]), this.read(field["type"] as Schema, depth + 1)]));
  }

  #blocks(item: () => void): void {
    for (;;) {
      let count = this.#long();
      if (count === 0n) return;
      if (count < 0n) {
        count = -count;
        this.#long();
      }
      for (; count > 0n; count--) item();
    }
  }

  #long(): bigint {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = this.#take(1)[0] ?? 0;
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return (value >> 1n) ^ -(value & 1n);
    }
    throw new Error("a number in it is too long");
  }

  #size(): number {
    return Number(this.#long());
  }

  #take(size: number): Uint8Array {
    const from = this.#skip(size);
    return this.bytes.subarray(from, from + size);
  }

  #skip(size: number): number {
    const from = this.#at;
    if (!(size >= 0 && from + size <= this.bytes.length)) throw new Error("it ends too early");
    this.#at = from + size;
    return from;
  }
}

function chosen<T>(all: readonly T[], index: bigint): T {
  const found = all[Number(index)];
  if (found === undefined) throw new Error("it chooses what its schema does not have");
  return found;
}

/** A number where it is exact, else its digits. */
function told(value: bigint): number | string {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : String(value);
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function logical(type: unknown, value: unknown): unknown {
  if (typeof value !== "number") return value;
  const ms = type === "timestamp-millis" ? value : type === "timestamp-micros" ? value / 1000 : type === "date" ? value * 86_400_000 : NaN;
  const moment = new Date(ms);
  return Number.isNaN(moment.getTime()) ? value : type === "date" ? moment.toISOString().slice(0, 10) : moment.toISOString();
}

function collect(schema: Schema, names: Map<string, Schema>): void {
  if (typeof schema !== "object" || schema === null) return;
  if (Array.isArray(schema)) return schema.forEach((one: Schema) => collect(one, names));
  const one = schema as Record<string, unknown>;
  if (typeof one["name"] === "string") names.set(one["name"].slice(one["name"].lastIndexOf(".") + 1), one);
  for (const inner of [one["type"], one["items"], one["values"]]) if (inner) collect(inner as Schema, names);
  if (Array.isArray(one["fields"])) for (const field of one["fields"] as { type: Schema }[]) collect(field.type, names);
}

/** The value that was written. Raises Error that says why it cannot be read. */
export function decodeAvro(definition: string, bytes: Uint8Array): unknown {
  const schema = JSON.parse(definition) as Schema;
  const names = new Map<string, Schema>();
  collect(schema, names);
  const reader = new Reader(bytes, names);
  const value = reader.read(schema);
  if (!reader.done) throw new Error("something follows its end");
  return value;
}
