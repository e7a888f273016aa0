/** The hub's HTTP API, typed: what the page knows of the hub it knows from here. */

export interface Worker {
  readonly name: string;
  readonly pid: number | null;
  readonly state: string;
  readonly restarts: number;
  readonly group?: string | null;
}

export interface Status {
  readonly version: string;
  readonly started_at: string | number;
  readonly uptime_s: number;
  readonly durability: string;
  readonly data_dir: string;
  readonly ready: boolean;
  readonly auth: string;
  readonly endpoints: Readonly<Record<string, string>>;
  readonly memory_bytes: number;
  readonly disk_free_bytes: number;
  readonly workers: readonly Worker[];
}

export interface Bounds {
  readonly partition: number;
  readonly start: number;
  readonly end: number;
  readonly bytes?: number;
}

export interface Hub {
  readonly name: string;
  readonly partitions: number;
  readonly events: number;
  readonly bytes: number;
  readonly bounds: readonly Bounds[];
  readonly in_events_s?: number;
  readonly internal?: boolean;
  readonly settings?: Readonly<Record<string, unknown>>;
}

export interface Group {
  readonly group: string;
  readonly state: string;
  readonly members: number;
  readonly lag_events: number | null;
  readonly lag_seconds: number | null;
}

export interface GroupPartition {
  readonly hub: string;
  readonly partition: number;
  readonly position: number | null;
  readonly end: number;
  readonly lag_events: number | null;
  readonly lag_seconds: number | null;
}

export interface GroupMember {
  readonly id: string;
  readonly client_id?: string | null;
  readonly host?: string | null;
  readonly partitions?: readonly unknown[];
}

export interface GroupDetail extends Omit<Group, "members"> {
  readonly partitions: readonly GroupPartition[];
  readonly members: readonly GroupMember[];
}

/** A function of an app: what it does, what its host counts, and how far behind it is. */
export interface FunctionRow {
  readonly name: string;
  readonly trigger: string;
  readonly when: string;
  readonly reads: string;
  readonly state: string;
  readonly counters: Readonly<Record<string, number>>;
  readonly last_error: string;
  readonly last_error_ms: number;
  readonly lag_events: number;
  readonly lag_seconds: number;
  readonly letters: number;
  readonly letters_waiting: number;
}

/** An app that the hub runs, or one whose host talks to it. */
export interface FunctionApp {
  readonly app: string;
  readonly deployed: boolean;
  readonly version: number;
  readonly state: string;
  readonly reason: string;
  readonly deployed_ms: number;
  readonly url: string;
  readonly workers: number;
  readonly cpu_s: number;
  readonly restarts: number;
  readonly functions: readonly FunctionRow[];
}

/** Lines of an app's log; `next` is where to go on. */
export interface LogPage {
  readonly lines: readonly string[];
  readonly next: number;
  readonly skipped: number;
}

export type UnitKind = "transformer" | "feeder";

/** A finding of the grid's detectors, with what people said of it. */
export interface Alert {
  readonly id: string;
  readonly state: "opened" | "changed" | "closed";
  readonly kind: string;
  readonly subject_kind: string;
  readonly subject: string;
  readonly started: string;
  readonly ended: string | null;
  readonly severity: string;
  /** 0 to 1. */
  readonly confidence: number;
  readonly detector: string;
  readonly version: number;
  readonly evidence: Readonly<Record<string, unknown>>;
  readonly acknowledged: { readonly by: string; readonly why: string; readonly at: string } | null;
  /** Name of the silence that covers it. */
  readonly silenced: string | null;
}

/** The network model: devices, and how many usage points each feeds. */
export interface NetworkModel {
  readonly name: string;
  readonly interval_s: number;
  readonly transformers: readonly {
    readonly id: string;
    readonly rated_kva: number;
    readonly substation: string;
    /** Degrees; null where nobody has said where it stands. */
    readonly lon: number | null;
    readonly lat: number | null;
    /** Feeders above it: those that feed several transformers. */
    readonly feeders: readonly string[];
    readonly customers: number;
  }[];
  readonly feeders: readonly { readonly id: string; readonly transformer: string; readonly customers: number }[];
}

export interface UsagePoint {
  readonly id: string;
  readonly transformer: string;
  readonly feeder: string;
  readonly expects: readonly string[];
  /** 0 is several or unknown. */
  readonly phase: number;
  readonly category: string;
  readonly active: boolean;
}

export interface Reading {
  readonly reading_type: string;
  readonly ts_end: string;
  /** 0: the value of an instant. */
  readonly interval_s: number;
  readonly value: number;
  readonly unit: string;
  /** CIM `system.category.sub`; empty is good. */
  readonly quality: string;
  readonly source: string | null;
  readonly version: number;
  readonly received_at: string | null;
  readonly partition: number;
  readonly offset: number;
  /** No later or better version of its interval is known. */
  readonly holds: boolean;
}

/** How a transformer is, as of an hour. */
export interface Health {
  readonly transformer: string;
  readonly ts_end: string;
  readonly load_factor: number;
  readonly hot_spot_c: number;
  readonly ageing_factor: number;
  readonly loss_of_life_h: number;
  readonly signature: string;
  readonly risk: number;
}

export interface HubOffset {
  readonly hub: string;
  readonly partition: number;
  readonly offset: number;
}

/** The grid at a time. Facts are as their hubs hold them. */
export interface GridMoment {
  readonly time: string;
  readonly transformers: readonly unknown[];
  readonly feeders: readonly unknown[];
  readonly health: readonly Health[];
  readonly alerts: readonly Alert[];
  readonly offsets: readonly HubOffset[];
  /** When the grid had come that far, by the hub's clock; null: it is no further yet. */
  readonly reached_ms: number | null;
}

export interface GridTimes {
  readonly first: string | null;
  readonly last: string | null;
  readonly interval_s: number;
}

export interface Rates {
  readonly in_events_s: number;
  readonly in_bytes_s: number;
  readonly out_events_s: number;
  readonly out_bytes_s: number;
}

/** One second of the hub, as `/v1/live` sends it. */
export interface Tick {
  readonly t: number;
  readonly rates: Rates;
  readonly hubs: readonly Hub[];
  readonly groups: readonly Group[];
  readonly workers: readonly Worker[];
  readonly functions?: readonly FunctionApp[];
  readonly status: {
    readonly durability: string;
    readonly ready: boolean;
    readonly memory_bytes: number;
    readonly disk_free_bytes: number;
  };
}

export interface HubEvent {
  readonly partition: number;
  readonly offset: number;
  readonly timestamp: number | string;
  readonly key: unknown;
  readonly value: unknown;
  readonly headers?: unknown;
  readonly format?: string;
}

export interface EventPage {
  readonly events: readonly HubEvent[];
  readonly next: number;
  readonly start: number;
  readonly end: number;
}

/** An answer that is not a success, with the hub's own advice. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

const REQUEST_TIMEOUT_MS = 10_000;

async function failure(response: Response): Promise<ApiError> {
  let detail = "";
  try {
    const problem = (await response.json()) as { detail?: unknown; title?: unknown };
    detail = String(problem.detail ?? problem.title ?? "");
  } catch {
    // Not a problem document; the status has to do.
  }
  return new ApiError(response.status, detail || `The hub answered ${response.status}.`);
}

async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  const timeout = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
  const response = await fetch(path, {
    headers: { accept: "application/json" },
    cache: "no-store",
    signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
  });
  if (!response.ok) throw await failure(response);
  return (await response.json()) as T;
}

async function post<T>(path: string, body: unknown): Promise<T> {
  const response = await fetch(path, {
    method: "POST",
    headers: { accept: "application/json", "content-type": "application/json" },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
  });
  if (!response.ok) throw await failure(response);
  return (await response.json()) as T;
}

function appPath(app: string): string {
  return `v1/functions/${encodeURIComponent(app)}`;
}

/** Stop a deployed app at the end of its batches, or run it again. */
export function setRunning(app: string, running: boolean): Promise<FunctionApp> {
  return post<FunctionApp>(`${appPath(app)}/${running ? "start" : "stop"}`, {});
}

/** Give a function all dead letters again that wait. */
export function replayLetters(app: string, name: string): Promise<{ readonly replayed: number }> {
  return post(`${appPath(app)}/functions/${encodeURIComponent(name)}/replay`, {});
}

/** The end of an app's log, or what came after a position of it. */
export function fetchLog(app: string, after: number | null, lines: number, signal?: AbortSignal): Promise<LogPage> {
  const from = after === null ? "" : `&after=${after}`;
  return get<LogPage>(`${appPath(app)}/logs?lines=${lines}${from}`, signal);
}

/** Ask for the newest findings. */
export async function fetchAlerts(state: "open" | "all", limit: number): Promise<readonly Alert[]> {
  return (await get<{ readonly alerts: readonly Alert[] }>(`v1/alerts?state=${state}&limit=${limit}`)).alerts;
}

/** Say that a finding is seen. `by` counts only where nobody signs in. */
export function acknowledgeAlert(id: string, why: string, by: string): Promise<Alert> {
  return post<Alert>(`v1/alerts/${encodeURIComponent(id)}/ack`, { why, by });
}

/** Mark findings of a kind and subject (patterns) as expected until a time with an offset. */
export function silenceAlerts(kind: string, subject: string, why: string, by: string, until: string): Promise<unknown> {
  return post("v1/silences", { kind, subject, why, by, until });
}

export const LIVE_PATH = "v1/live";

/** Ask for the network model in effect. */
export function fetchNetwork(): Promise<NetworkModel> {
  return get<NetworkModel>("v1/grid/network");
}

/** Ask for the usage points of a transformer or feeder. */
export function fetchUsagePoints(
  kind: UnitKind,
  unit: string,
  signal?: AbortSignal,
): Promise<{ readonly usage_points: readonly UsagePoint[]; readonly truncated: boolean }> {
  return get(`v1/grid/usage-points?${new URLSearchParams({ [kind]: unit })}`, signal);
}

/** Ask for a usage point's readings of a span of time. */
export function fetchReadings(
  usagePoint: string,
  from: string,
  to: string,
  versions: "current" | "all",
  signal?: AbortSignal,
): Promise<{ readonly readings: readonly Reading[]; readonly truncated: boolean }> {
  const span = new URLSearchParams({ from, to, versions });
  return get(`v1/grid/usage-points/${encodeURIComponent(usagePoint)}/readings?${span}`, signal);
}

/** Ask which times of the grid are in the lake. */
export function fetchGridTimes(): Promise<GridTimes> {
  return get<GridTimes>("v1/grid/times");
}

/** Ask for the grid at a time. */
export function fetchGridAt(time: string): Promise<GridMoment> {
  return get<GridMoment>(`v1/grid/at?${new URLSearchParams({ time })}`);
}

/** Ask for a unit's intervals up to a time, oldest first. */
export async function fetchLoads(kind: UnitKind, unit: string, until: string, signal?: AbortSignal): Promise<readonly unknown[]> {
  const wanted = new URLSearchParams({ [kind]: unit, until });
  return (await get<{ readonly facts: readonly unknown[] }>(`v1/grid/loads?${wanted}`, signal)).facts;
}

/** Ask for the hub's own state. */
export function fetchStatus(): Promise<Status> {
  return get<Status>("v1/status");
}

/** Ask for one hub with its settings. */
export function fetchHub(hub: string, signal?: AbortSignal): Promise<Hub> {
  return get<Hub>(`v1/hubs/${encodeURIComponent(hub)}`, signal);
}

/** Ask for one consumer group with its partitions and members. */
export function fetchGroup(group: string, signal?: AbortSignal): Promise<GroupDetail> {
  return get<GroupDetail>(`v1/groups/${encodeURIComponent(group)}`, signal);
}

/** The path of one page of events; also what the page shows as the command to read the same. */
export function eventsPath(hub: string, partition: number, offset: number | string, limit: number): string {
  return `v1/hubs/${encodeURIComponent(hub)}/events?partition=${partition}&offset=${offset}&limit=${limit}`;
}

/** Read one page of events of one partition. */
export function fetchEvents(
  hub: string,
  partition: number,
  offset: number,
  limit: number,
  signal?: AbortSignal,
): Promise<EventPage> {
  return get<EventPage>(eventsPath(hub, partition, offset, limit), signal);
}
