/** How each transformer is: the newest hour of the hub `grid.health`. */
import type { Health, HubEvent, Tick } from "./api";
import { UNITS_MAX } from "./facts.svelte";
import { Follower } from "./follower";
import { live } from "./live.svelte";

/** From here on the hottest place of a winding ages faster than it is built for, degrees Celsius. */
export const HOT_C = 98;

/** What a view says of a transformer's health; empty when there is nothing to say. */
export function complaint(health: Health | undefined): string {
  if (!health) return "";
  const signs = health.signature ? [`sign of failure: ${health.signature.replaceAll("_", " ")}`] : [];
  const heat = health.hot_spot_c >= HOT_C ? [`hot spot ${Math.round(health.hot_spot_c)}\u00a0°C`] : [];
  const age = health.ageing_factor >= 1 ? [`ages ${health.ageing_factor.toFixed(1)}\u00a0times as fast`] : [];
  return [...signs, ...heat, ...age].join(", ");
}

function isHealth(value: unknown): value is Health {
  return typeof value === "object" && value !== null && typeof (value as Health).transformer === "string" && typeof (value as Health).hot_spot_c === "number";
}

class HealthFollower {
  byTransformer = $state.raw<ReadonlyMap<string, Health>>(new Map());
  #follower = new Follower("grid.health", {
    last: UNITS_MAX,
    onEvents: (events) => this.#take(events),
    onReset: () => (this.byTransformer = new Map()),
  });

  /** Follow until the returned function is called. */
  watch(): () => void {
    return live.onTick((tick: Tick) => void this.#follower.take(tick));
  }

  #take(events: readonly HubEvent[]): void {
    const found = new Map(this.byTransformer);
    for (const { value } of events) {
      if (!isHealth(value) || (found.size >= UNITS_MAX && !found.has(value.transformer))) continue;
      const known = found.get(value.transformer);
      if (!known || known.ts_end <= value.ts_end) found.set(value.transformer, value);
    }
    this.byTransformer = found;
  }
}

export const health = new HealthFollower();
