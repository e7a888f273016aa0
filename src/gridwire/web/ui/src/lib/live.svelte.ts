/**
 * The one live connection of the page: `/v1/live`, a tick a second.
 *
 * A browser opens six connections to one host over HTTP/1.1, over all of its tabs. A page that held a stream for every
 * hub it shows would stop a second tab from loading. So there is one stream a tab; whoever follows a hub reads pages of
 * events when a tick says that the hub's end moved (see follower.ts), and a hidden tab lets go of its stream.
 */
import { untrack } from "svelte";
import { fetchRights, fetchStatus, LIVE_PATH, type Status, type Tick } from "./api";
import { Backoff } from "./backoff";
import { RateHistory } from "./history";

export type Link = "connecting" | "live" | "reconnecting" | "paused";

/** A stream without a tick for so long is dead, whatever TCP says. */
const SILENCE_MS = 6_000;
/** A hidden tab keeps its stream for so long. */
const HIDDEN_MS = 20_000;
/** What the stream takes. */
const OBSERVE = "namespace.observe";
const STATUS_EVERY_MS = 30_000;

type Listener = (tick: Tick) => void;

class Live {
  link = $state<Link>("connecting");
  tick = $state.raw<Tick | null>(null);
  status = $state.raw<Status | null>(null);
  /** Milliseconds of the page's clock at which the connection was lost. */
  lostAt = $state<number | null>(null);
  /** When the next attempt is due, on the page's clock. */
  retryAt = $state<number | null>(null);
  /** The page's clock, moved once a second. */
  now = $state(Date.now());
  /** Why the hub will not answer to whoever looks, however often he asks. */
  refused = $state("");
  readonly history = new RateHistory();

  #source: EventSource | null = null;
  #backoff = new Backoff();
  #retry: ReturnType<typeof setTimeout> | undefined;
  #hide: ReturnType<typeof setTimeout> | undefined;
  #lastTickAt = 0;
  #statusAt = 0;
  #listeners = new Set<Listener>();

  /** Connect, and stay connected until the page goes away. */
  start(): void {
    this.#connect();
    setInterval(() => this.#everySecond(), 1000);
    document.addEventListener("visibilitychange", () => this.#visibility());
    addEventListener("online", () => this.retryNow());
    addEventListener("pagehide", () => this.history.save(String(this.status?.started_at ?? "")));
  }

  /** Call `listener` at each tick, and at once if there was one; returns how to stop. */
  onTick(listener: Listener): () => void {
    this.#listeners.add(listener);
    // Untracked: an effect that starts to listen must not run again at every tick.
    const tick = untrack(() => this.tick);
    if (tick) listener(tick);
    return () => this.#listeners.delete(listener);
  }

  /** Try again without waiting for the backoff. */
  retryNow(): void {
    if (this.link === "live") return;
    clearTimeout(this.#retry);
    this.#connect();
  }

  #connect(): void {
    this.#source?.close();
    this.retryAt = null;
    this.#lastTickAt = Date.now();
    const source = new EventSource(LIVE_PATH);
    this.#source = source;
    source.onmessage = (message: MessageEvent<string>) => {
      if (source === this.#source) this.#take(message.data);
    };
    source.onerror = () => {
      if (source === this.#source) this.#lost();
    };
  }

  #take(data: string): void {
    let tick: Tick;
    try {
      tick = JSON.parse(data) as Tick;
    } catch {
      return;
    }
    if (!Array.isArray(tick.hubs) || typeof tick.t !== "number") return;
    this.#lastTickAt = Date.now();
    // The first tick after a quiet time has no base to take rates from: its zeros would be drawn as a fall.
    if (this.link === "live" || Object.values(tick.rates).some((rate) => rate > 0)) this.history.add(tick.t, tick.rates);
    if (this.link !== "live") this.#found();
    this.tick = tick;
    for (const listener of this.#listeners) listener(tick);
  }

  #found(): void {
    this.link = "live";
    this.lostAt = null;
    this.refused = "";
    this.#backoff.reset();
    void this.#refreshStatus();
  }

  #lost(): void {
    this.#source?.close();
    this.#source = null;
    if (this.link !== "reconnecting") this.lostAt = Date.now();
    this.link = "reconnecting";
    const wait = this.#backoff.next();
    this.retryAt = Date.now() + wait;
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.#connect(), wait);
    void this.#askWhy();
  }

  /** An event stream that is refused does not say so: ask whether it is. */
  async #askWhy(): Promise<void> {
    try {
      const rights = await fetchRights("", "");
      this.refused = rights.may.includes(OBSERVE) ? "" : `${rights.name} may not see this page: it takes Listen on the namespace.`;
    } catch {
      // The hub is away, and does not refuse.
    }
  }

  #everySecond(): void {
    this.now = Date.now();
    if (this.#source && this.now - this.#lastTickAt > SILENCE_MS) this.#lost();
    if (this.link === "live" && this.now - this.#statusAt > STATUS_EVERY_MS) void this.#refreshStatus();
  }

  async #refreshStatus(): Promise<void> {
    this.#statusAt = Date.now();
    try {
      const status = await fetchStatus();
      if (!this.status) this.history.restore(String(status.started_at));
      this.status = status;
    } catch {
      // The next tick or reconnect asks again.
      this.#statusAt = 0;
    }
  }

  #visibility(): void {
    clearTimeout(this.#hide);
    if (document.hidden) {
      this.#hide = setTimeout(() => this.#pause(), HIDDEN_MS);
    } else if (this.link === "paused") {
      this.link = "connecting";
      this.#connect();
    }
  }

  #pause(): void {
    clearTimeout(this.#retry);
    this.#source?.close();
    this.#source = null;
    this.link = "paused";
  }
}

export const live = new Live();
