/** Entry of the page. */
import "./app.css";
import "uplot/dist/uPlot.min.css";
import { mount } from "svelte";
import App from "./App.svelte";
import { live } from "./lib/live.svelte";
import { router } from "./lib/router.svelte";

const target = document.getElementById("page");
if (!target) throw new Error("index.html has no #page");
router.start();
live.start();
mount(App, { target });
