/** How fast functions work: the advance of what they have dealt with, between two ticks. */
import type { FunctionApp, Tick } from "./api";
import { live } from "./live.svelte";

/** A sample older than this is no base for a rate. */
const STALE_MS = 10_000;
/** Hosts tell once a second what they counted: a shorter span would show nothing, then twice as much. */
const SPAN_MS = 2_500;

interface Sample {
  readonly t: number;
  readonly done: number;
}

function key(app: string, name: string): string {
  return `${app}/${name}`;
}

class WorkRates {
  /** Events a second by app and function; missing where nothing is known yet. */
  rates = $state.raw<ReadonlyMap<string, number>>(new Map());
  #samples = new Map<string, Sample[]>();

  /** Watch until the returned function is called. */
  watch(): () => void {
    return live.onTick((tick) => this.#take(tick));
  }

  /** Events a second of one function. */
  of(app: string, name: string): number | null {
    return this.rates.get(key(app, name)) ?? null;
  }

  #take(tick: Tick): void {
    const rates = new Map<string, number>();
    const samples = new Map<string, Sample[]>();
    for (const app of tick.functions ?? []) {
      for (const one of app.functions) {
        const name = key(app.app, one.name);
        const now = { t: tick.t, done: one.counters.events ?? one.counters.invocations ?? 0 };
        const kept = (this.#samples.get(name) ?? []).filter((sample) => now.t - sample.t < STALE_MS && sample.done <= now.done);
        const base = kept.findLast((sample) => now.t - sample.t >= SPAN_MS) ?? kept[0];
        if (base && now.t > base.t) rates.set(name, ((now.done - base.done) * 1000) / (now.t - base.t));
        samples.set(name, [...kept, now]);
      }
    }
    this.#samples = samples;
    this.rates = rates;
  }
}

export const functionRates = new WorkRates();

/** Failures of a function, however it failed. */
export function failures(counters: Readonly<Record<string, number>>): number {
  return (counters.failures ?? 0) + (counters.timeouts ?? 0) + (counters.deaths ?? 0);
}

/** An app's state in a few words. */
export function stateText(app: FunctionApp): string {
  const version = app.deployed ? `version ${app.version}, ` : "not deployed, ";
  return `${version}${app.state}${app.reason ? `: ${app.reason}` : ""}`;
}
