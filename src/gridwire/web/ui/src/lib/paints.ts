/** Colours of the current theme as a canvas takes them: custom properties resolved to plain colours. */

export interface Paints {
  readonly text: string;
  readonly muted: string;
  readonly line: string;
  readonly accent: string;
  readonly accentFill: string;
  readonly second: string;
  readonly normal: string;
  readonly exporting: string;
  readonly panel: string;
  readonly high: string;
  readonly over: string;
  readonly font: string;
}

function resolved(probe: HTMLElement, name: string): string {
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

/** Resolve the colours at a place in the page. */
export function paints(at: HTMLElement): Paints {
  const probe = document.createElement("span");
  at.append(probe);
  const accent = resolved(probe, "--accent");
  const found: Paints = {
    text: resolved(probe, "--text"),
    muted: resolved(probe, "--muted"),
    line: resolved(probe, "--line"),
    accent,
    accentFill: accent.replace(/^rgb\((.*)\)$/, "rgba($1, 0.12)"),
    second: resolved(probe, "--second"),
    normal: resolved(probe, "--normal"),
    exporting: resolved(probe, "--export"),
    panel: resolved(probe, "--panel"),
    high: resolved(probe, "--high"),
    over: resolved(probe, "--over"),
    font: `11px ${getComputedStyle(at).fontFamily}`,
  };
  probe.remove();
  return found;
}

/** An axis in the page's manner. */
export function axis(paint: Paints, more: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
  return {
    stroke: paint.muted,
    font: paint.font,
    grid: { stroke: paint.line, width: 1 },
    ticks: { show: false },
    ...more,
  };
}
