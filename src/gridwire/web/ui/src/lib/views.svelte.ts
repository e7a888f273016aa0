/** Views of hubs that somebody named, in this browser. Sharing one is sharing its address. */

export interface SavedView {
  readonly name: string;
  readonly hub: string;
  /** The view's address: all of its state. */
  readonly address: string;
}

const KEY = "gridwire.views";
const VIEWS_MAX = 200;

function stored(): readonly SavedView[] {
  try {
    const found: unknown = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(found) ? found.filter(isView).slice(0, VIEWS_MAX) : [];
  } catch {
    return [];
  }
}

function isView(found: unknown): found is SavedView {
  const { name, hub, address } = (found ?? {}) as Partial<Record<keyof SavedView, unknown>>;
  return typeof name === "string" && typeof hub === "string" && typeof address === "string" && address.startsWith("#/hubs/");
}

class Views {
  all = $state.raw<readonly SavedView[]>(stored());

  constructor() {
    addEventListener("storage", (event) => {
      if (event.key === KEY) this.all = stored();
    });
  }

  /** Keep a view; one of the same name and hub is replaced. */
  save(view: SavedView): void {
    this.#write([...this.all.filter((one) => one.name !== view.name || one.hub !== view.hub), view].slice(-VIEWS_MAX));
  }

  /** Forget a view. */
  remove(view: SavedView): void {
    this.#write(this.all.filter((one) => one !== view));
  }

  #write(all: readonly SavedView[]): void {
    this.all = all;
    try {
      localStorage.setItem(KEY, JSON.stringify(all));
    } catch {
      // Storage is full or forbidden: the views last as long as the tab.
    }
  }
}

export const views = new Views();
