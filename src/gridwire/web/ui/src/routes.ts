/** The views and their addresses: a view to come is one more row. */
import type { Component } from "svelte";
import type { Place } from "./lib/router.svelte";
import Access from "./views/Access.svelte";
import Alerts from "./views/Alerts.svelte";
import Functions from "./views/Functions.svelte";
import Grid from "./views/Grid.svelte";
import HubView from "./views/HubView.svelte";
import Hubs from "./views/Hubs.svelte";
import NotFound from "./views/NotFound.svelte";
import Overview from "./views/Overview.svelte";
import QuarantineView from "./views/QuarantineView.svelte";
import Schemas from "./views/Schemas.svelte";
import Sql from "./views/Sql.svelte";

export interface ViewProps {
  readonly place: Place;
}

interface Route {
  readonly section: string;
  /** Path after the section: how many further segments the view takes. */
  readonly segments: number;
  readonly view: Component<ViewProps>;
  readonly title: (place: Place) => string;
}

const ROUTES: readonly Route[] = [
  { section: "", segments: 0, view: Overview, title: () => "Overview" },
  { section: "alerts", segments: 0, view: Alerts, title: () => "Alerts" },
  { section: "grid", segments: 0, view: Grid, title: () => "Grid" },
  { section: "grid", segments: 1, view: Grid, title: (place) => place.segments[1] ?? "Grid" },
  { section: "hubs", segments: 0, view: Hubs, title: () => "Hubs" },
  { section: "hubs", segments: 1, view: HubView, title: (place) => place.segments[1] ?? "Hub" },
  { section: "functions", segments: 0, view: Functions, title: () => "Functions" },
  { section: "sql", segments: 0, view: Sql, title: () => "SQL" },
  { section: "schemas", segments: 0, view: Schemas, title: () => "Schemas" },
  { section: "access", segments: 0, view: Access, title: () => "Access" },
  { section: "quarantine", segments: 0, view: QuarantineView, title: () => "Quarantine" },
];

const NOT_FOUND: Route = { section: "", segments: 0, view: NotFound, title: () => "Not found" };

/** The sections of the navigation, in order. */
export const SECTIONS: readonly { readonly section: string; readonly label: string }[] = [
  { section: "", label: "Overview" },
  { section: "alerts", label: "Alerts" },
  { section: "grid", label: "Grid" },
  { section: "hubs", label: "Hubs" },
  { section: "sql", label: "SQL" },
  { section: "functions", label: "Functions" },
  { section: "quarantine", label: "Quarantine" },
  { section: "schemas", label: "Schemas" },
  { section: "access", label: "Access" },
];

/** The route of a place. */
export function routeOf(place: Place): Route {
  const section = place.segments[0] ?? "";
  const further = Math.max(0, place.segments.length - 1);
  return ROUTES.find((route) => route.section === section && route.segments === further) ?? NOT_FOUND;
}
