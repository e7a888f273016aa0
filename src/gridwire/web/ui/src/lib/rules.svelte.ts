/** Alert rules and how they are, read anew whenever their worker tells something. */
import { fetchRules, textOf, type AlertRule, type KnownRule, type Tick } from "./api";
import { live } from "./live.svelte";

/** The worker of rules says here how they are. */
const STATES = "grid.rule-states";
/** Rules come and go without an event of that hub. */
const AGAIN_MS = 10_000;

export const RULE_OPERATORS: readonly string[] = [">", ">=", "<", "<=", "=", "!="];

/** A rule as it was made, without how it is. */
export function definition(known: KnownRule): AlertRule {
  const rule: Record<string, unknown> = { ...known };
  for (const name of ["status", "revision", "changed_ms", "changed_by"]) delete rule[name];
  return rule as unknown as AlertRule;
}

/** What a rule says, in one line. */
export function said(rule: AlertRule): string {
  if (rule.type === "sql") return `lake, every ${rule.every_s} s`;
  return `${rule.hub}: ${rule.field} ${rule.op} ${rule.value}${rule.for_count > 1 ? `, ${rule.for_count} in a row` : ""}`;
}

export class RuleList {
  rules = $state.raw<readonly KnownRule[]>([]);
  /** Why the list could not be read; empty when it could. */
  trouble = $state("");
  #stop: () => void;
  #seen = "";
  #readAt = 0;
  #reading = false;

  constructor() {
    this.#stop = live.onTick((tick) => void this.#take(tick));
  }

  /** Forget it all. */
  close(): void {
    this.#stop();
  }

  /** Read again now. Never throws: `trouble` says what was wrong. */
  async refresh(): Promise<void> {
    this.#readAt = Date.now();
    try {
      this.rules = await fetchRules();
      this.trouble = "";
    } catch (error) {
      this.trouble = textOf(error);
    }
  }

  async #take(tick: Tick): Promise<void> {
    const now = tick.hubs.find((hub) => hub.name === STATES)?.bounds.map((one) => one.end).join(" ") ?? "";
    if (this.#reading || (now === this.#seen && Date.now() - this.#readAt < AGAIN_MS)) return;
    this.#reading = true;
    try {
      await this.refresh();
      this.#seen = now;
    } finally {
      this.#reading = false;
    }
  }
}
