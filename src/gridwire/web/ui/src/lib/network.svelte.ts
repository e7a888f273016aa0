/** The network model in effect, read anew whenever its hub grows. */
import { ApiError, fetchNetwork, type NetworkModel, type Tick } from "./api";
import { live } from "./live.svelte";

const HUB = "grid.network";

class NetworkFollower {
  model = $state.raw<NetworkModel | null>(null);
  #seen = "";
  #reading = false;

  /** Follow until the returned function is called. */
  watch(): () => void {
    return live.onTick((tick) => void this.#take(tick));
  }

  async #take(tick: Tick): Promise<void> {
    const bounds = tick.hubs.find((hub) => hub.name === HUB)?.bounds ?? [];
    const ends = bounds.map((one) => one.end).join(" ");
    if (this.#reading || ends === this.#seen) return;
    this.#reading = true;
    try {
      this.model = ends ? await fetchNetwork() : null;
      this.#seen = ends;
    } catch (error) {
      // Who may not read it, or has none yet, sees units without their place; anything else is tried again.
      if (error instanceof ApiError && error.status < 500) this.#seen = ends;
    } finally {
      this.#reading = false;
    }
  }
}

export const network = new NetworkFollower();
