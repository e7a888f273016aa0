/** The network model: the one in effect, read anew whenever its hub grows, and the one of the time that is looked at. */
import { ApiError, fetchNetwork, fetchNetworkVersions, type NetworkModel, type Tick } from "./api";
import { live } from "./live.svelte";
import { isoOf } from "./moment.svelte";

const HUB = "grid.network";
/** Models of times that were looked at: whoever scrubs to and fro over a change has both sides of it. */
const KEPT = 8;

/** Whether a model holds at a time. */
function holds(model: NetworkModel, ms: number): boolean {
  return (model.first || Date.parse(model.valid_from) <= ms) && (model.valid_to === null || ms < Date.parse(model.valid_to));
}

class NetworkFollower {
  model = $state.raw<NetworkModel | null>(null);
  /** The model of the time that is looked at, once it is known. */
  past = $state.raw<NetworkModel | null>(null);
  /** When it changed, milliseconds. */
  changes = $state.raw<readonly number[]>([]);
  #known: NetworkModel[] = [];
  #wanted: number | null = null;
  #looking = false;
  #seen = "";
  #reading = false;

  /** Follow until the returned function is called. */
  watch(): () => void {
    return live.onTick((tick) => void this.#take(tick));
  }

  /** Look at a time; null is now. */
  look(ms: number | null): void {
    this.#wanted = ms;
    if (ms === null) this.past = null;
    else void this.#read();
  }

  /** Read the model of the time that is wanted; of times wanted meanwhile only the last one is read. */
  async #read(): Promise<void> {
    if (this.#looking) return;
    this.#looking = true;
    try {
      while (this.#wanted !== null) {
        const asked: number = this.#wanted;
        let found = this.#known.find((model) => holds(model, asked));
        if (!found) {
          found = await fetchNetwork(isoOf(asked));
          this.#known = [...this.#known, found].slice(-KEPT);
        }
        if (asked !== this.#wanted) continue;
        this.past = found;
        return;
      }
    } catch {
      this.past = null; // the model in effect is shown instead
    } finally {
      this.#looking = false;
    }
  }

  async #take(tick: Tick): Promise<void> {
    const bounds = tick.hubs.find((hub) => hub.name === HUB)?.bounds ?? [];
    const ends = bounds.map((one) => one.end).join(" ");
    if (this.#reading || ends === this.#seen) return;
    this.#reading = true;
    try {
      this.#known = [];
      this.model = ends ? await fetchNetwork() : null;
      const versions = ends ? await fetchNetworkVersions() : [];
      this.changes = versions.filter((one) => one.in_effect && !one.first).map((one) => Date.parse(one.valid_from));
      this.#seen = ends;
      this.look(this.#wanted);
    } catch (error) {
      // Who may not read it, or has none yet, sees units without their place; anything else is tried again.
      if (error instanceof ApiError && error.status < 500) this.#seen = ends;
    } finally {
      this.#reading = false;
    }
  }
}

export const network = new NetworkFollower();
