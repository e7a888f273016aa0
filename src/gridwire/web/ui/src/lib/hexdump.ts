/** Bytes for people: sixteen a row, as hexadecimal and as ASCII. */

export interface HexRow {
  readonly offset: string;
  readonly hex: string;
  readonly ascii: string;
}

export const HEX_ROWS_MAX = 64;
const WIDTH = 16;

function printable(byte: number): string {
  return byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : "·";
}

/** The first rows of a dump. */
export function hexRows(bytes: Uint8Array, rowsMax = HEX_ROWS_MAX, width = WIDTH): HexRow[] {
  const rows: HexRow[] = [];
  for (let at = 0; at < bytes.length && rows.length < rowsMax; at += width) {
    const part = Array.from(bytes.subarray(at, at + width));
    const hex = part.map((byte) => byte.toString(16).padStart(2, "0"));
    const half = width / 2;
    rows.push({
      offset: at.toString(16).padStart(4, "0"),
      hex: `${hex.slice(0, half).join(" ").padEnd(half * 3 - 1)}  ${hex.slice(half).join(" ")}`,
      ascii: part.map(printable).join(""),
    });
  }
  return rows;
}

/** All bytes as hexadecimal digits, for the clipboard. */
export function hexText(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
