/** What whoever looks at the page may do to a hub or group: the page offers nothing that the hub would refuse. */
import { fetchRights } from "./api";
import { live } from "./live.svelte";

/** The hub's own names of actions, and the right each takes, for a person. */
const TAKES = {
  "events.send": "Send on this hub",
  "events.read": "Listen on this hub",
  "hub.alter": "Manage on this hub",
  "group.use": "Listen on this group",
  "schema.register": "Send on the namespace",
  "namespace.operate": "Manage on the namespace",
} as const;

export type Action = keyof typeof TAKES;

export class RightsOf {
  #may = $state.raw<ReadonlySet<string> | null>(null);
  /** Who signed in; empty where nobody does. */
  name = $state("");
  signIn = $state(false);
  #busy = false;
  #leaving = new AbortController();
  #stop: () => void;

  constructor(
    private readonly hub = "",
    private readonly group = "",
  ) {
    this.#stop = live.onTick(() => void this.#ask());
  }

  /** Whether the answer is there. */
  get known(): boolean {
    return this.#may !== null;
  }

  /** Whether an action would be let through; no, until it is known. */
  can(action: Action): boolean {
    return this.#may?.has(action) ?? false;
  }

  /** Why a button is disabled; undefined where it is not. */
  why(action: Action): string | undefined {
    return this.known && !this.can(action) ? `This takes ${TAKES[action]}.` : undefined;
  }

  /** Forget it all. */
  close(): void {
    this.#stop();
    this.#leaving.abort();
  }

  async #ask(): Promise<void> {
    if (this.#busy || this.known) return;
    this.#busy = true;
    try {
      const rights = await fetchRights(this.hub, this.group, this.#leaving.signal);
      this.#may = new Set(rights.may);
      this.name = rights.name;
      this.signIn = rights.sign_in;
    } catch {
      // The next tick asks again.
    } finally {
      this.#busy = false;
    }
  }
}
