/** The command lines that read what a view shows. */
import { eventsPath } from "./api";

const SAFE = /^[A-Za-z0-9_./:=@%+,-]+$/;

/** Quote one argument for a POSIX shell. */
export function quoted(argument: string): string {
  return SAFE.test(argument) ? argument : `'${argument.replaceAll("'", "'\\''")}'`;
}

/** The address of a path of this hub, without the page's own place in it. */
export function absolute(path: string): string {
  return new URL(path, location.href.split("#")[0]).href;
}

/** Read a page of events with curl. */
export function curlPage(hub: string, partition: number, offset: number | string, limit: number): string {
  return `curl -s ${quoted(absolute(eventsPath(hub, partition, offset, limit)))}`;
}

/** Follow a hub with curl. */
export function curlTail(hub: string, partition: number | undefined): string {
  const where = partition === undefined ? "" : `&partition=${partition}`;
  return `curl -sN ${quoted(absolute(`v1/hubs/${encodeURIComponent(hub)}/tail?from=-10${where}`))}`;
}

/** Read with kcat: `offset` as kcat takes it (a number, or a negative one from the end). */
export function kcat(kafka: string, hub: string, partition: number | undefined, offset: number, count?: number): string {
  const where = partition === undefined ? "" : ` -p ${partition}`;
  const end = count === undefined ? "" : ` -c ${count} -e`;
  return `kcat -C -b ${quoted(kafka)} -t ${quoted(hub)}${where} -o ${offset}${end}`;
}
