/** The hash router: every view and its filters have an address, and the hub serves one file for all of them. */

export interface Place {
  /** Decoded path segments: #/hubs/readings is ["hubs", "readings"]. */
  readonly segments: readonly string[];
  readonly params: URLSearchParams;
}

function decoded(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}

/** Read a place from a hash. */
export function parse(hash: string): Place {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  return { segments: path.split("/").filter(Boolean).map(decoded), params: new URLSearchParams(query) };
}

/** The address of a place; empty parameters are left out. */
export function href(segments: readonly string[], params: Readonly<Record<string, string>> = {}): string {
  const filled = Object.entries(params).filter(([, value]) => value !== "");
  const query = new URLSearchParams(filled).toString();
  return `#/${segments.map(encodeURIComponent).join("/")}${query ? `?${query}` : ""}`;
}

class Router {
  place = $state.raw<Place>(parse(location.hash));

  /** Follow the address bar. */
  start(): void {
    addEventListener("hashchange", () => {
      this.place = parse(location.hash);
    });
  }

  /** Change the address; with `replace` it makes no entry in the tab's history. */
  go(address: string, replace = false): void {
    if (address === location.hash) return;
    if (replace) {
      history.replaceState(null, "", address);
      this.place = parse(address);
    } else {
      location.hash = address;
    }
  }
}

export const router = new Router();
