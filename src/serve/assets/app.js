// The page of `ddpm serve`: views, events from the server, and what is dropped on the page.

import { ask, byId, guarded, problem } from "./page.js";
import * as form from "./form.js";
import * as images from "./image.js";
import * as jobs from "./jobs.js";
import * as watch from "./watch.js";

function view() {
  const name = location.hash === "#runs" ? "runs" : "try";
  for (const one of ["try", "runs"]) byId(one).hidden = one !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = name === "runs" ? "Runs - ddpm" : "Try - ddpm";
}

let known = null;

function listen() {
  const events = new EventSource("/api/events");
  const take = (name, what) => events.addEventListener(name, (event) => what(JSON.parse(event.data)));
  take("jobs", jobs.takeJobs);
  take("progress", jobs.takeProgress);
  take("runs", (runs) => {
    watch.takeRuns(runs);
    // Runs that begin, and those that have become usable, are to be chosen from.
    const now = runs.map((run) => `${run.id} ${run.saved} ${run.usable}`).sort().join();
    if (now !== known && known !== null) form.refresh().catch((error) => problem(error.message));
    known = now;
  });
  events.onopen = () => { byId("connection").textContent = ""; };
  events.onerror = () => {
    byId("connection").textContent = events.readyState === EventSource.CLOSED
      ? "Not connected: open the address that ddpm serve printed last" : "The server does not answer; trying again";
  };
}

async function take(file) {
  const taken = await images.image.take(file);
  if (taken.settings) form.say(form.fillFromFile(taken.settings));
  else form.useImage();
}

function drops() {
  const marked = (on) => document.body.classList.toggle("dropping", on);
  const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragover", (event) => { if (hasFile(event)) { event.preventDefault(); marked(true); } });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) marked(false); });
  addEventListener("drop", guarded(async (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    marked(false);
    location.hash = "#try";
    if (event.dataTransfer.files.length > 0) await take(event.dataTransfer.files[0]);
  }));
  byId("file").addEventListener("change", guarded(async () => {
    const [file] = byId("file").files;
    if (file) await take(file);
  }));
}

async function begin() {
  addEventListener("hashchange", view);
  view();
  images.begin();
  jobs.begin(guarded(async (wish) => form.fillFromWish(wish)));
  drops();
  await form.begin();
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    guarded(async () => {
      const wish = await form.wish();
      const { id } = await ask("/api/jobs", { method: "POST", body: JSON.stringify(wish) });
      jobs.watch(id);
      await form.refresh();
    })();
  });
  listen();
}

begin().catch((error) => problem(error.message));
