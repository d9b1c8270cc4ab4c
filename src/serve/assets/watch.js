// The table of runs.

import { byId, keep, make, problem } from "./page.js";

// Milliseconds between two reports of a run that goes on.
const BETWEEN = 15000;

let newest = [];
let shown = null;
let step = null;
let since = 0;

const UNITS = ["bytes", "KiB", "MiB", "GiB", "TiB"];

function size(bytes) {
  let unit = 0;
  while (bytes >= 1024 && unit < UNITS.length - 1) { bytes /= 1024; unit += 1; }
  return `${unit === 0 ? bytes : bytes.toFixed(1)} ${UNITS[unit]}`;
}

const short = (number) => (typeof number === "number" ? String(Number(number.toPrecision(4))) : "");

/** Shows the report of a run, as it is now. */
function report(run) {
  shown = run.id;
  step = run.step;
  since = Date.now();
  byId("report").hidden = false;
  byId("report-title").textContent = `Report of ${run.name}`;
  // A new frame: one that is sent to another address would leave a step in the browser's history.
  const frame = byId("report-frame").cloneNode();
  frame.src = `/runs/${run.id}/report`;
  frame.title = `Report of ${run.name}`;
  byId("report-frame").replaceWith(frame);
}

/** A new list of runs. */
export function takeRuns(runs) {
  const cells = (run) => {
    const step = run.steps ? `${run.step} of ${run.steps}` : `${run.step}`;
    const best = run.best ? `${short(run.best.value)} (${run.best.measure}, step ${run.best.step})` : "";
    const changed = run.changed ? new Date(run.changed * 1000).toLocaleString() : "";
    return [run.why ? `${run.state}: ${run.why}` : run.state, step, short(run.loss), best, short(run.images_per_sec), size(run.bytes), changed];
  };
  const open = (id) => {
    report(newest.find((run) => run.id === id));
    byId("report").scrollIntoView();
  };
  newest = runs;
  const row = (run) => {
    const name = make("button", { type: "button", onclick: () => open(run.id) }, run.name);
    return make("tr", {}, make("th", { scope: "row" }, name), ...cells(run).map(() => make("td")));
  };
  keep(byId("run-rows"), runs.map((run) => ({ key: run.id, same: run.name, build: () => row(run) })));
  runs.forEach((run, i) => {
    const shown = [...byId("run-rows").children[i].querySelectorAll("td")];
    cells(run).forEach((text, k) => { if (shown[k].textContent !== text) shown[k].textContent = text; });
  });
  byId("no-runs").hidden = runs.length > 0;
  const one = runs.find((run) => run.id === shown);
  byId("renew").onclick = () => {
    if (one) report(one);
    else problem("That run is gone.");
  };
  if (one && one.step !== step && byId("follow").checked && !byId("runs").hidden && Date.now() - since > BETWEEN) report(one);
}
