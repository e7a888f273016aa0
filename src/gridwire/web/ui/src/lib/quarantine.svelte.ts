/** The newest quarantined frames, for every view that shows them. */
import type { HubEvent, Tick } from "./api";
import { eventId, eventTime, header, valueBytes } from "./events";
import { Follower } from "./follower";
import { live } from "./live.svelte";

export const FRAMES_MAX = 200;
export const QUARANTINE = "quarantine";

export interface Frame {
  readonly id: string;
  readonly event: HubEvent;
  readonly time: number;
  readonly format: string;
  readonly source: string;
  readonly reason: string;
  readonly bytes: Uint8Array;
  /** Whether `bytes` are the frame's own, or written again from parsed JSON. */
  readonly exact: boolean;
}

/** Read a frame from its event. */
export function frameOf(event: HubEvent): Frame {
  return {
    id: eventId(event),
    event,
    time: eventTime(event),
    format: header(event, "format"),
    source: header(event, "source"),
    reason: header(event, "reason"),
    ...valueBytes(event),
  };
}

class Quarantine {
  /** Newest first. */
  frames = $state.raw<readonly Frame[]>([]);
  #watchers = 0;
  #stop: (() => void) | undefined;
  #follower = new Follower(QUARANTINE, {
    last: FRAMES_MAX,
    onEvents: (events) => this.#take(events),
    onReset: () => {
      this.frames = [];
    },
  });

  /** Follow the hub until the returned function is called. */
  watch(): () => void {
    this.#watchers += 1;
    this.#stop ??= live.onTick((tick: Tick) => void this.#follower.take(tick));
    return () => {
      this.#watchers -= 1;
      if (this.#watchers > 0) return;
      this.#stop?.();
      this.#stop = undefined;
    };
  }

  #take(events: readonly HubEvent[]): void {
    const known = new Set(this.frames.map((frame) => frame.id));
    const fresh = events.filter((event) => !known.has(eventId(event))).map(frameOf);
    const all = [...fresh, ...this.frames];
    all.sort((a, b) => b.time - a.time || b.event.offset - a.event.offset);
    this.frames = all.slice(0, FRAMES_MAX);
  }
}

export const quarantine = new Quarantine();
