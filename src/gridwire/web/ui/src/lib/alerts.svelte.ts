/** Findings of the grid's detectors, read anew whenever their hub or the hub of what people said of them grows. */
import { ApiError, fetchAlerts, type Alert, type Tick } from "./api";
import { live } from "./live.svelte";

/** The newest findings kept; some 500 bytes each, read anew at most once a tick. */
export const ALERTS_MAX = 1_000;
export const SEVERITIES: readonly string[] = ["critical", "warning", "info"];

const HUBS: readonly string[] = ["grid.alerts", "grid.alert-notes"];
/** A silence ends without an event, and a refused reader may be let in. */
const AGAIN_MS = 30_000;

/** Ends of the hubs that a list of alerts depends on; empty while no finding was ever told. */
function ends(tick: Tick): string {
  const hubs = tick.hubs.filter((hub) => HUBS.includes(hub.name));
  return hubs.map((hub) => `${hub.name} ${hub.bounds.map((one) => one.end).join(" ")}`).join("; ");
}

/** The place of a severity in the order of urgency, 0 first; unknown ones come last. */
export function rank(severity: string): number {
  const at = SEVERITIES.indexOf(severity);
  return at < 0 ? SEVERITIES.length : at;
}

/** What a finding is about, as silences and filters name it. */
export function subjectOf(alert: Alert): string {
  return `${alert.subject_kind}/${alert.subject}`;
}

/** A finding that a view of the grid marks: an outage, or anything critical. */
function marked(alert: Alert): boolean {
  return alert.severity === "critical" || alert.kind === "outage" || alert.kind.startsWith("outage.");
}

/** The most urgent marked finding by subject. */
export function marksOf(alerts: readonly Alert[]): ReadonlyMap<string, Alert> {
  const marks = new Map<string, Alert>();
  for (const alert of alerts) {
    if (!marked(alert)) continue;
    const known = marks.get(subjectOf(alert));
    if (!known || rank(alert.severity) < rank(known.severity)) marks.set(subjectOf(alert), alert);
  }
  return marks;
}

class AlertList {
  /** The newest first. */
  alerts = $state.raw<readonly Alert[]>([]);
  /** Why the list could not be read; empty when it could. */
  trouble = $state("");
  /** The most urgent marked finding by subject. */
  readonly marks = $derived(marksOf(this.alerts.filter((alert) => alert.state !== "closed")));
  #watchers = 0;
  #stop: (() => void) | undefined;
  #seen = "";
  #readAt = 0;
  #reading = false;
  #asked = 0;

  constructor(private readonly state: "open" | "all") {}

  /** Follow until the returned function is called; what is known stays for the next watcher. */
  watch(): () => void {
    this.#watchers += 1;
    this.#stop ??= live.onTick((tick) => void this.#take(tick));
    return () => {
      this.#watchers -= 1;
      if (this.#watchers > 0) return;
      this.#stop?.();
      this.#stop = undefined;
    };
  }

  /** Read again now. Never throws: `trouble` says what was wrong. */
  async refresh(): Promise<void> {
    this.#readAt = Date.now();
    this.#asked += 1;
    const turn = this.#asked;
    try {
      const alerts = await fetchAlerts(this.state, ALERTS_MAX);
      // An answer that was overtaken by a later one is old.
      if (turn !== this.#asked) return;
      this.alerts = alerts;
      this.trouble = "";
    } catch (error) {
      this.trouble = error instanceof ApiError ? error.message : "The alerts cannot be read at present.";
    }
  }

  async #take(tick: Tick): Promise<void> {
    const now = ends(tick);
    const due = now !== "" && Date.now() - this.#readAt > AGAIN_MS;
    if (this.#reading || (now === this.#seen && !due)) return;
    this.#reading = true;
    try {
      await this.refresh();
      this.#seen = now;
    } finally {
      this.#reading = false;
    }
  }
}

export const openAlerts = new AlertList("open");
export const allAlerts = new AlertList("all");

/** Exactly this text as a pattern of a silence. */
export function literal(text: string): string {
  return text.replace(/[*?[]/g, "[$&]");
}
