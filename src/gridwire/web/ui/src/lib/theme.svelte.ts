/** Light or dark: the system's preference until somebody chooses; theme.js applies the choice before first paint. */

export type Theme = "light" | "dark";

const STORE = "gridwire.theme";
const system = matchMedia("(prefers-color-scheme: dark)");

class ThemeChoice {
  #system = $state<Theme>(system.matches ? "dark" : "light");
  #chosen = $state<Theme | null>((document.documentElement.dataset["theme"] as Theme | undefined) ?? null);

  constructor() {
    system.addEventListener("change", () => {
      this.#system = system.matches ? "dark" : "light";
    });
  }

  /** What is shown. */
  get shown(): Theme {
    return this.#chosen ?? this.#system;
  }

  /** Change to the other one and remember it; choosing what the system prefers forgets the choice. */
  toggle(): void {
    const next: Theme = this.shown === "dark" ? "light" : "dark";
    this.#chosen = next === this.#system ? null : next;
    try {
      if (this.#chosen) localStorage.setItem(STORE, this.#chosen);
      else localStorage.removeItem(STORE);
    } catch {
      // Storage may be forbidden: the choice then lasts as long as the page.
    }
    if (this.#chosen) document.documentElement.dataset["theme"] = this.#chosen;
    else delete document.documentElement.dataset["theme"];
  }
}

export const theme = new ThemeChoice();
