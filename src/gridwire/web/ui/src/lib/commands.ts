/** The command lines that read what a view shows. */

const SAFE = /^[A-Za-z0-9_./:=@%+,-]+$/;

/** Quote one argument for a POSIX shell. */
export function quoted(argument: string): string {
  return SAFE.test(argument) ? argument : `'${argument.replaceAll("'", "'\\''")}'`;
}

/** The address of a path of this hub, without the page's own place in it. */
export function absolute(path: string): string {
  return new URL(path, location.href.split("#")[0]).href;
}

/** Read with curl what an address of the API has. */
export function curl(path: string): string {
  return `curl -s ${quoted(absolute(path))}`;
}

/** Follow a hub with curl. */
export function curlTail(hub: string, partition: string, where: string): string {
  const query = new URLSearchParams(Object.entries({ from: "-10", partition, where }).filter(([, value]) => value));
  return `curl -sN ${quoted(absolute(`v1/hubs/${encodeURIComponent(hub)}/tail?${query}`))}`;
}

/** Read with kcat: `offset` as kcat takes it (a number, or a negative one from the end). */
export function kcat(kafka: string, hub: string, partition: number | undefined, offset: number, count?: number): string {
  const where = partition === undefined ? "" : ` -p ${partition}`;
  const end = count === undefined ? "" : ` -c ${count} -e`;
  return `kcat -C -b ${quoted(kafka)} -t ${quoted(hub)}${where} -o ${offset}${end}`;
}

/** Ask the lake with curl. */
export function curlSql(query: string): string {
  return `curl -s ${quoted(absolute("v1/sql"))} -H 'content-type: application/json' -d ${quoted(JSON.stringify({ query }))}`;
}
