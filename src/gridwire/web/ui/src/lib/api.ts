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
  readonly partitions?: readonly { readonly hub: string; readonly partitions: readonly number[] }[];
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
  /** From when on it holds; the first one also before. */
  readonly valid_from: string;
  /** Until when; null is until further notice. */
  readonly valid_to: string | null;
  readonly first: boolean;
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
  /** Median voltage of its customers, pu; absent in facts of earlier versions. */
  readonly voltage_pu?: number | null;
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

async function ask(method: string, path: string, body?: string, contentType = "application/json", signal?: AbortSignal): Promise<Response> {
  const timeout = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
  const response = await fetch(path, {
    method,
    headers: { accept: "application/json", "content-type": contentType },
    body: body ?? null,
    signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
  });
  if (!response.ok) throw await failure(response);
  return response;
}

async function post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  return (await ask("POST", path, JSON.stringify(body), "application/json", signal)).json() as Promise<T>;
}

/** What the page itself does not take, as a sentence. */
export class Refused extends Error {}

/** An error as a person reads it. */
export function textOf(error: unknown): string {
  return error instanceof ApiError || error instanceof Refused ? error.message : "The hub does not answer.";
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

/** Which alerts go to which webhook, and how that is going. */
export interface AlertRoute {
  readonly name: string;
  readonly url: string;
  readonly kind: string;
  readonly subject: string;
  readonly severity: string;
  readonly states: readonly string[];
  readonly silenced: boolean;
  readonly mode: string;
  /** Name of the header that goes along; its value is shown to nobody. */
  readonly header: string;
  readonly handshake: boolean;
  readonly time_limit_s: number;
  /** Why nothing is delivered; empty while it is. */
  readonly stopped: string;
  readonly state: "on" | "failing" | "stopped";
  readonly waiting: number;
  readonly delivered: number;
  readonly failed: number;
  readonly delivered_ms: number | null;
  readonly error: string;
  readonly error_ms: number | null;
}

/** What a person says of a new route; the rest is as the hub has it. */
export interface NewAlertRoute {
  readonly name: string;
  readonly url: string;
  readonly kind: string;
  readonly subject: string;
  readonly severity: string;
  readonly states: readonly string[];
  readonly silenced: boolean;
  readonly mode: string;
  readonly header: string;
  readonly handshake: boolean;
}

/** What a receiver said to a sample. */
export interface RouteTest {
  readonly delivered: boolean;
  readonly status: number | null;
  readonly answer: string;
  readonly error: string;
  readonly took_ms: number;
}

const ROUTES_PATH = "v1/alert-routes";

function routePath(name: string): string {
  return `${ROUTES_PATH}/${encodeURIComponent(name)}`;
}

/** Ask for the routes of alerts. */
export async function fetchAlertRoutes(): Promise<readonly AlertRoute[]> {
  return (await get<{ readonly routes: readonly AlertRoute[] }>(ROUTES_PATH)).routes;
}

/** Make a route, once its receiver agrees. */
export function addAlertRoute(route: NewAlertRoute): Promise<AlertRoute> {
  return post<AlertRoute>(ROUTES_PATH, route);
}

/** Send a route's receiver a sample. */
export function testAlertRoute(name: string): Promise<RouteTest> {
  return post<RouteTest>(`${routePath(name)}/test`, {});
}

/** Go on with a route that was stopped. */
export function resumeAlertRoute(name: string): Promise<AlertRoute> {
  return post<AlertRoute>(`${routePath(name)}/resume`, {});
}

/** Forget a route. */
export async function deleteAlertRoute(name: string): Promise<void> {
  await ask("DELETE", routePath(name));
}

export const LIVE_PATH = "v1/live";

/** Ask for the network model in effect, now or at a time. */
export function fetchNetwork(at: string | null = null): Promise<NetworkModel> {
  return get<NetworkModel>(`v1/grid/network${at === null ? "" : `?${new URLSearchParams({ at })}`}`);
}

/** A version of the network model; one that was replaced is not in effect at any time. */
export interface NetworkVersion {
  readonly valid_from: string;
  readonly in_effect: boolean;
  readonly first: boolean;
}

/** Ask for the newest versions of the network model. */
export async function fetchNetworkVersions(): Promise<readonly NetworkVersion[]> {
  return (await get<{ readonly networks: readonly NetworkVersion[] }>("v1/grid/networks")).networks;
}

/** Ask for the usage points of a transformer or feeder, now or at a time. */
export function fetchUsagePoints(
  kind: UnitKind,
  unit: string,
  at: string | null,
  signal?: AbortSignal,
): Promise<{ readonly usage_points: readonly UsagePoint[]; readonly truncated: boolean }> {
  return get(`v1/grid/usage-points?${new URLSearchParams({ [kind]: unit, ...(at === null ? {} : { at }) })}`, signal);
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

/** The path of one page of events of one partition; also what the page shows as the command to read the same. */
export function eventsPath(hub: string, partition: number, offset: number | string, limit: number, where = ""): string {
  const query = new URLSearchParams({ partition: String(partition), offset: String(offset), limit: String(limit) });
  if (where) query.set("where", where);
  return `v1/hubs/${encodeURIComponent(hub)}/events?${query}`;
}

/** Read one page of events of one partition; with a filter, search a bounded stretch for them. */
export function fetchEvents(
  hub: string,
  partition: number,
  offset: number | string,
  limit: number,
  signal?: AbortSignal,
  where = "",
): Promise<EventPage> {
  return get<EventPage>(eventsPath(hub, partition, offset, limit, where), signal);
}

/** What one request sent, and where its first event lies. */
export interface Sent {
  readonly partition: number;
  readonly offset: number;
  readonly durable: boolean;
  readonly count?: number;
}

/** Send what a person wrote: its content type decides what counts as an event. */
export async function sendEvents(
  hub: string,
  body: string,
  contentType: string,
  query: Readonly<Record<string, string>>,
): Promise<Sent> {
  const path = `v1/hubs/${encodeURIComponent(hub)}/events?${new URLSearchParams(query)}`;
  return (await ask("POST", path, body, contentType)).json() as Promise<Sent>;
}

/** A range of a hub's events, as the API's query has it; empty parts are left out. */
export interface Range {
  readonly partition: string;
  readonly from: string;
  readonly to: string;
  readonly where: string;
}

export type FileFormat = "ndjson" | "csv" | "parquet";

/** Where a range can be had as a file. */
export function exportPath(hub: string, range: Range, format: FileFormat, fields: string): string {
  const { partition, from, to, where } = range;
  const filled = Object.entries({ format, partition, offset: from, to, where, fields }).filter(([, value]) => value);
  return `v1/hubs/${encodeURIComponent(hub)}/events?${new URLSearchParams(filled)}`;
}

/** Raises ApiError unless the file can be had: a link that fails says nothing. */
export async function checkExport(path: string): Promise<void> {
  const asked = await fetch(path, { method: "HEAD", cache: "no-store" });
  if (asked.ok) return;
  // An answer to HEAD has no body; what refuses the file says why at once.
  throw await failure(await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) }));
}

/** One step of a copy, see docs/reference/http.md. */
export interface CopyStep {
  readonly to_hub: string;
  readonly partition: number;
  readonly from: number | string;
  readonly to: number | string;
  readonly where?: string;
  readonly before?: string;
  readonly stamp?: "kept" | "now";
}

export interface Copied {
  readonly copied: number;
  readonly next: number;
  readonly end: number;
  readonly next_ms: number | null;
}

/** Copy some events of one partition to another hub; `next` says where to go on. */
export function copyStep(hub: string, step: CopyStep, signal: AbortSignal): Promise<Copied> {
  return post<Copied>(`v1/hubs/${encodeURIComponent(hub)}/copy`, step, signal);
}

/** Who asks, and the actions he may do to a hub and group. */
export interface Rights {
  readonly name: string;
  readonly sign_in: boolean;
  readonly may: readonly string[];
}

/** Ask what may be done here. */
export function fetchRights(hub: string, group: string, signal?: AbortSignal): Promise<Rights> {
  return get<Rights>(`v1/rights?${new URLSearchParams({ hub, group })}`, signal);
}

/** What a group's new position would change, partition by partition. */
export interface ResetPlan {
  readonly changes: readonly { readonly partition: number; readonly from: number | null; readonly to: number }[];
}

function resetPath(group: string): string {
  return `v1/groups/${encodeURIComponent(group)}/reset`;
}

/** Where a group is to read a hub from. */
export interface Reset {
  readonly hub: string;
  readonly to: number | string;
  readonly partition?: number;
}

/** Ask what a reset would change. */
export function planReset(group: string, reset: Reset): Promise<ResetPlan> {
  return post<ResetPlan>(resetPath(group), { ...reset, dry_run: true });
}

/** Make a group without members read a hub from somewhere else. */
export function resetGroup(group: string, reset: Reset): Promise<GroupDetail> {
  return post<GroupDetail>(resetPath(group), reset);
}

/** A schema group: its schemas have one format and keep one promise. */
export interface SchemaGroup {
  readonly name: string;
  readonly format: string;
  readonly compatibility: string;
  readonly created_ms: number;
  readonly schemas: number;
}

/** One version of a schema. */
export interface Schema {
  readonly group: string;
  readonly name: string;
  readonly version: number;
  readonly id: string;
  readonly format: string;
  readonly definition: string;
  readonly created_ms: number;
}

function schemasPath(group: string, schema?: string): string {
  return `v1/schemagroups/${encodeURIComponent(group)}/schemas${schema === undefined ? "" : `/${encodeURIComponent(schema)}`}`;
}

/** Ask for all schema groups. */
export async function fetchSchemaGroups(): Promise<readonly SchemaGroup[]> {
  return (await get<{ readonly groups: readonly SchemaGroup[] }>("v1/schemagroups")).groups;
}

/** Ask for the newest version of every schema of a group. */
export async function fetchSchemas(group: string): Promise<readonly Schema[]> {
  return (await get<{ readonly schemas: readonly Schema[] }>(schemasPath(group))).schemas;
}

/** Ask for every version of a schema, oldest first. */
export async function fetchVersions(group: string, schema: string): Promise<readonly Schema[]> {
  return (await get<{ readonly versions: readonly Schema[] }>(schemasPath(group, schema))).versions;
}

/** Make a schema group. */
export function createSchemaGroup(name: string, format: string, compatibility: string): Promise<SchemaGroup> {
  return post<SchemaGroup>("v1/schemagroups", { name, format, compatibility: format === "Custom" ? "None" : compatibility });
}

/** Register a schema or a version of one; the hub refuses what breaks the group's promise. */
export function addSchema(group: string, name: string, format: string, definition: string): Promise<Schema> {
  return post<Schema>(schemasPath(group), { name, format, definition });
}

/** Delete a schema with all its versions. */
export async function deleteSchema(group: string, schema: string): Promise<void> {
  await ask("DELETE", schemasPath(group, schema));
}

/** Delete a schema group that has no schemas. */
export async function deleteSchemaGroup(group: string): Promise<void> {
  await ask("DELETE", `v1/schemagroups/${encodeURIComponent(group)}`);
}

/** Rights under a name, for a hub and a group or for all. */
export interface Policy {
  readonly name: string;
  readonly rights: readonly string[];
  readonly hub: string | null;
  readonly group: string | null;
}

export interface PolicyKeys extends Policy {
  readonly primary_key: string;
  readonly secondary_key: string;
}

export interface User {
  readonly user: string;
  readonly policies: readonly string[];
}

export interface Certificate {
  readonly subject: string;
  readonly policies: readonly string[];
}

/** Who may come in, without secrets. */
export interface Access {
  readonly policies: readonly Policy[];
  readonly users: readonly User[];
  readonly certificates: readonly Certificate[];
}

/** Ask who may come in. */
export function fetchAccess(): Promise<Access> {
  return get<Access>("v1/policies");
}

/** Make a policy; the only answer with both keys but that of a rotation. */
export function createPolicy(name: string, rights: readonly string[], hub: string, group: string): Promise<PolicyKeys> {
  return post<PolicyKeys>("v1/policies", { name, rights, hub: hub || null, group: group || null });
}

/** Make one of a policy's keys anew. */
export function rotateKey(policy: string, key: "primary" | "secondary"): Promise<PolicyKeys> {
  return post<PolicyKeys>(`v1/policies/${encodeURIComponent(policy)}/rotate`, { key });
}

/** Forget a policy. */
export async function deletePolicy(policy: string): Promise<void> {
  await ask("DELETE", `v1/policies/${encodeURIComponent(policy)}`);
}

/** Make or change a user. */
export function setUser(name: string, password: string, policies: readonly string[]): Promise<unknown> {
  return post("v1/users", { name, password, policies });
}

/** Forget a user. */
export async function deleteUser(user: string): Promise<void> {
  await ask("DELETE", `v1/users/${encodeURIComponent(user)}`);
}

/** Say which policies a certificate carries; none forget it. */
export function setCertificate(subject: string, policies: readonly string[]): Promise<unknown> {
  return post("v1/certificates", { subject, policies });
}

/** A column of an answer or of a table, with DuckDB's name of its type. */
export interface SqlColumn {
  readonly name: string;
  readonly type: string;
}

export interface SqlAnswer {
  readonly columns: readonly SqlColumn[];
  readonly rows: readonly (readonly unknown[])[];
  readonly truncated: boolean;
  readonly took_ms: number;
}

export interface SqlTable {
  readonly name: string;
  readonly rows: number;
  readonly columns: readonly SqlColumn[];
}

/** Rows of an answer that the page holds. */
export const SQL_ROWS = 50_000;

/** Longer than the hub lets a question take. */
const SQL_TIMEOUT_MS = 60_000;

async function question(query: string, limit: number, format: string, signal?: AbortSignal): Promise<Response> {
  const timeout = AbortSignal.timeout(SQL_TIMEOUT_MS);
  const response = await fetch("v1/sql", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ query, limit, format }),
    signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
  });
  if (!response.ok) throw await failure(response);
  return response;
}

/** Answer a question about the lake. */
export async function askLake(query: string, signal?: AbortSignal): Promise<SqlAnswer> {
  return (await question(query, SQL_ROWS, "json", signal)).json() as Promise<SqlAnswer>;
}

/** The answer as a file, up to a million rows. */
export async function lakeFile(query: string, format: FileFormat): Promise<Blob> {
  return (await question(query, 1_000_000, format)).blob();
}

/** Tables of the lake. */
export async function fetchTables(): Promise<readonly SqlTable[]> {
  const response = await fetch("v1/sql/tables", { cache: "no-store", signal: AbortSignal.timeout(SQL_TIMEOUT_MS) });
  if (!response.ok) throw await failure(response);
  return ((await response.json()) as { tables: readonly SqlTable[] }).tables;
}

/** A rule as it is made: a threshold on a hub, or a question about the lake. */
export interface ThresholdRule {
  readonly type: "threshold";
  readonly name: string;
  readonly severity: string;
  readonly text: string;
  readonly hub: string;
  readonly field: string;
  readonly op: string;
  readonly value: number | string;
  readonly subject: string;
  readonly subject_kind: string;
  readonly where: string;
  readonly for_count: number;
  readonly closes_at: number | null;
  readonly quiet_s: number | null;
}

export interface SqlRule {
  readonly type: "sql";
  readonly name: string;
  readonly severity: string;
  readonly text: string;
  readonly query: string;
  readonly every_s: number;
  readonly subject_kind: string;
}

export type AlertRule = ThresholdRule | SqlRule;

/** A rule with how it is. */
export type KnownRule = AlertRule & {
  readonly changed_ms: number;
  readonly changed_by: string;
  readonly status: {
    readonly state: string;
    readonly open: number;
    readonly events: number;
    readonly skipped: number;
    readonly refused: number;
    readonly last_ms: number;
    readonly took_ms: number;
    readonly error: string;
  };
};

/** What a rule would have found. */
export interface RuleTrial {
  readonly events: number;
  readonly skipped: number;
  readonly opened: number;
  readonly open: number;
  readonly error: string;
  readonly findings: readonly { readonly id: string; readonly state: string; readonly started: string; readonly subject_kind: string; readonly subject: string; readonly evidence: Readonly<Record<string, unknown>> }[];
}

const RULES_PATH = "v1/alert-rules";
/** A trial reads as many events as a rule would in a while. */
const TRIAL_TIMEOUT_MS = 120_000;

function rulePath(name: string): string {
  return `${RULES_PATH}/${encodeURIComponent(name)}`;
}

/** Every alert rule. */
export async function fetchRules(): Promise<readonly KnownRule[]> {
  return (await get<{ rules: readonly KnownRule[] }>(RULES_PATH)).rules;
}

/** Make a rule, or change the one of its name. */
export async function saveRule(rule: AlertRule, change: boolean): Promise<void> {
  await ask(change ? "PUT" : "POST", change ? rulePath(rule.name) : RULES_PATH, JSON.stringify(rule));
}

/** Remove a rule; what it has open is closed. */
export async function removeRule(name: string): Promise<void> {
  await ask("DELETE", rulePath(name));
}

/** What a rule would have found in the last hours of its hub, or finds in the lake now. */
export async function tryRule(rule: AlertRule, hours: number): Promise<RuleTrial> {
  const signal = AbortSignal.timeout(TRIAL_TIMEOUT_MS);
  const response = await fetch(`${RULES_PATH}/try`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ rule, hours }), signal });
  if (!response.ok) throw await failure(response);
  return (await response.json()) as RuleTrial;
}
