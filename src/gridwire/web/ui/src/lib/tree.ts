/** The one-line diagram as a tree: substation, feeders above several transformers, transformers, their own feeders. */
import type { Alert, Health, NetworkModel } from "./api";
import { complaint } from "./health.svelte";
import { levelOf, voltageLevelOf, type Level, type Paint, type Row } from "./load";

export type NodeKind = "substation" | "feeder" | "transformer";

export interface TreeNode {
  readonly kind: NodeKind;
  readonly name: string;
  readonly key: string;
  readonly customers: number;
  readonly children: TreeNode[];
}

/** What is drawn of a node. */
export interface Drawn {
  readonly node: TreeNode;
  readonly depth: number;
  /** Index of the row it hangs on, -1 for a root. */
  readonly parent: number;
  readonly open: boolean;
  readonly place: number;
  readonly of: number;
}

/** What is known of a node at the time that is shown. */
export interface State {
  readonly loadKw: number | null;
  readonly share: number | null;
  readonly level: Level;
  readonly exporting: boolean;
  readonly outage: Alert | null;
  /** Outages of what hangs on it. */
  readonly outagesBelow: number;
  readonly voltage: Alert | null;
  /** Median voltage of its customers, pu. */
  readonly voltagePu: number | null;
  /** What its transformer's health, or a finding about it, gives cause to say. */
  readonly complaint: string;
}

const collator = new Intl.Collator("en-GB", { numeric: true });

function node(kind: NodeKind, name: string, customers: number): TreeNode {
  return { kind, name, key: `${kind}/${name}`, customers, children: [] };
}

/** The tree of a network; without one, what the loads say: feeders beneath their transformers. */
export function treeOf(model: NetworkModel | null, transformers: readonly Row[], feeders: readonly Row[]): TreeNode[] {
  return model ? fromModel(model) : fromLoads(transformers, feeders);
}

function fromModel(model: NetworkModel): TreeNode[] {
  const roots = new Map<string, TreeNode>();
  const customers = new Map(model.feeders.map((feeder) => [feeder.id, feeder.customers]));
  const transformers = new Map<string, TreeNode>();
  const above = new Map<string, TreeNode>();
  for (const row of model.transformers) {
    let place = roots.get(row.substation);
    if (!place) roots.set(row.substation, (place = node("substation", row.substation, 0)));
    const made = node("transformer", row.id, row.customers);
    transformers.set(row.id, made);
    const [only] = row.feeders;
    if (row.feeders.length === 1 && only !== undefined) {
      let feeder = above.get(only);
      if (!feeder) {
        above.set(only, (feeder = node("feeder", only, customers.get(only) ?? 0)));
        place.children.push(feeder);
      }
      feeder.children.push(made);
    } else {
      made.children.push(...row.feeders.map((name) => node("feeder", name, customers.get(name) ?? 0)));
      place.children.push(made);
    }
  }
  for (const row of model.feeders) {
    if (row.transformer) transformers.get(row.transformer)?.children.push(node("feeder", row.id, row.customers));
  }
  return sorted([...roots.values()].flatMap((root) => (root.name ? [counted(root)] : root.children)));
}

function fromLoads(transformers: readonly Row[], feeders: readonly Row[]): TreeNode[] {
  const made = new Map(transformers.map((row) => [row.name, node("transformer", row.name, 0)]));
  const roots: TreeNode[] = [...made.values()];
  for (const row of feeders) (made.get(row.unit.parent ?? "")?.children ?? roots).push(node("feeder", row.name, 0));
  return sorted(roots);
}

function counted(root: TreeNode): TreeNode {
  return { ...root, customers: root.children.reduce((sum, child) => sum + child.customers, 0) };
}

function sorted(nodes: TreeNode[]): TreeNode[] {
  nodes.sort((a, b) => collator.compare(a.name, b.name));
  for (const one of nodes) sorted(one.children);
  return nodes;
}

/** A transformer on the map. */
export interface MapPlace {
  readonly node: TreeNode;
  /** East and north of wherever the earth is flat enough, in the same unit. */
  readonly x: number;
  readonly y: number;
}

/** Transformers whose coordinates are known. Degrees east shrink with the cosine of the latitude: enough for a utility. */
export function placesOf(model: NetworkModel | null): MapPlace[] {
  const known = (model?.transformers ?? []).filter((row) => row.lon !== null && row.lat !== null);
  const middle = known.reduce((sum, row) => sum + (row.lat ?? 0), 0) / Math.max(1, known.length);
  const shrink = Math.cos((middle * Math.PI) / 180);
  return known.map((row) => ({ node: node("transformer", row.id, row.customers), x: (row.lon ?? 0) * shrink, y: row.lat ?? 0 }));
}

/** The rows to draw, from the top: children of what is open. */
export function rowsToDraw(roots: readonly TreeNode[], isOpen: (node: TreeNode) => boolean): Drawn[] {
  const rows: Drawn[] = [];
  function add(nodes: readonly TreeNode[], depth: number, parent: number): void {
    nodes.forEach((one, place) => {
      const open = one.children.length > 0 && isOpen(one);
      const index = rows.push({ node: one, depth, parent, open, place: place + 1, of: nodes.length }) - 1;
      if (open) add(one.children, depth + 1, index);
    });
  }
  add(roots, 0, -1);
  return rows;
}

/** The way from a root to a node, the node last; empty when it is not there. */
export function pathTo(roots: readonly TreeNode[], name: string): TreeNode[] {
  for (const one of roots) {
    if (one.name === name && one.kind !== "substation") return [one];
    const below = pathTo(one.children, name);
    if (below.length) return [one, ...below];
  }
  return [];
}

/** Says what is known of nodes; an outage above a node is its own. */
export class States {
  #rows: ReadonlyMap<string, Row>;
  #outages = new Map<string, Alert>();
  #voltages = new Map<string, Alert>();
  #devices = new Map<string, Alert>();
  /** Outages of single usage points, by the feeder they hang on. */
  #single = new Map<string, number>();

  constructor(
    transformers: readonly Row[],
    feeders: readonly Row[],
    alerts: readonly Alert[],
    private readonly health: ReadonlyMap<string, Health>,
  ) {
    this.#rows = new Map([...transformers.map((row) => [`transformer/${row.name}`, row] as const), ...feeders.map((row) => [`feeder/${row.name}`, row] as const)]);
    for (const alert of alerts) {
      const subject = `${alert.subject_kind}/${alert.subject}`;
      const feeder = alert.evidence["feeder"];
      if (alert.subject_kind === "usage_point") {
        if (alert.kind === "outage" && typeof feeder === "string") this.#single.set(`feeder/${feeder}`, (this.#single.get(`feeder/${feeder}`) ?? 0) + 1);
      } else if (alert.kind === "outage" || alert.kind.startsWith("outage.")) this.#outages.set(subject, alert);
      else if (alert.kind.startsWith("voltage.")) this.#voltages.set(subject, alert);
      else if (alert.kind.startsWith("transformer.")) this.#devices.set(subject, alert);
    }
  }

  of(one: TreeNode): State {
    const row = this.#rows.get(one.key);
    const loadKw = row ? row.fact.loadKw : one.kind === "substation" ? this.#sum(one) : null;
    return {
      loadKw,
      share: row?.share ?? null,
      level: row?.level ?? levelOf(null),
      exporting: (loadKw ?? 0) < 0,
      outage: this.#outages.get(one.key) ?? null,
      outagesBelow: this.#outages.size + this.#single.size ? this.#below(one) : 0,
      voltage: this.#voltages.get(one.key) ?? null,
      voltagePu: one.kind === "transformer" ? (this.health.get(one.name)?.voltage_pu ?? null) : null,
      complaint: one.kind === "transformer" ? complaint(this.health.get(one.name)) || (this.#devices.get(one.key)?.kind ?? "") : "",
    };
  }

  #below(one: TreeNode): number {
    const single = this.#single.get(one.key) ?? 0;
    return one.children.reduce((sum, child) => sum + (this.#outages.has(child.key) ? 1 : 0) + this.#below(child), single);
  }

  /** The load of what hangs on a substation; null while nothing is known of it. */
  #sum(one: TreeNode): number | null {
    let sum: number | null = null;
    for (const child of one.children) {
      const row = this.#rows.get(child.key);
      const load = row ? row.fact.loadKw : this.#sum(child);
      if (load !== null) sum = (sum ?? 0) + load;
    }
    return sum;
  }
}

/** Stroke of a line that carries a load, in pixels: the square root, so that small loads differ too. */
export function widthOf(loadKw: number | null, mostKw: number): number {
  return loadKw === null || mostKw <= 0 ? 1 : 1 + 6 * Math.sqrt(Math.min(1, Math.abs(loadKw) / mostKw));
}

/** The class of a node's colour. */
export function toneOf(state: State, paint: Paint): string {
  if (paint === "voltage") {
    const level = voltageLevelOf(state.voltagePu);
    return level === "low" ? "export" : level;
  }
  return state.level === "normal" && state.exporting ? "export" : state.level;
}
