// The stage, where a job is watched, and the list of jobs.

import { ask, byId, guarded, keep, make, plural } from "./page.js";

let jobs = [];
let watched = null;
let told = null;
let loaded = null;
let onUse = () => {};

const find = (id) => jobs.find((job) => job.id === id);
const kind = (wish) => (typeof wish.task === "string" ? wish.task : Object.keys(wish.task)[0]);

const TITLES = {
  sample: "from noise", interpolate: "between two seeds", vary: "variations of an image", fill: "a part filled in", invert: "noise of an image",
};

function title({ wish }) {
  const steps = wish.steps ? `, ${plural(wish.steps, "step")}` : "";
  const number = kind(wish) === "invert" ? "" : `${plural(wish.number, "image")}, seed ${wish.seed}, `;
  return `${TITLES[kind(wish)]}: ${number}${wish.sampler}${steps}`;
}

function state(job) {
  if (job.state === "done") return `done in ${job.secs.toFixed(1)} s`;
  if (job.state === "failed") return `failed: ${job.error}`;
  return job.state;
}

/** Watches a job from now on. */
export function watch(id) {
  watched = id;
  loaded = null;
  told = null;
  // Before it is in the list, there is nothing to draw.
  if (find(id)) takeJobs(jobs);
}

/** A new list of jobs. */
export function takeJobs(list) {
  jobs = list;
  const running = jobs.find((job) => ["running", "stopping"].includes(job.state));
  if (watched === null || !find(watched)) watched = running?.id ?? jobs.at(-1)?.id ?? null;
  const item = (job) => {
    const buttons = [];
    if (job.id !== watched) buttons.push(make("button", { type: "button", "aria-label": `Show job ${job.id}`, onclick: () => watch(job.id) }, "Show"));
    if (["waiting", "running"].includes(job.state)) buttons.push(cancelButton(job.id));
    buttons.push(make("button", { type: "button", "aria-label": `Use settings of job ${job.id}`, onclick: () => onUse(job.wish) }, "Use settings"));
    const text = make("span", job.state === "failed" ? { class: "failed" } : {}, `${job.id}. ${title(job)}: ${state(job)}`);
    return make("li", {}, text, ...buttons);
  };
  keep(byId("jobs"), [...jobs].reverse().map((job) => (
    { key: job.id, same: `${state(job)} ${job.id === watched}`, build: () => item(job) })));
  byId("no-jobs").hidden = jobs.length > 0;
  show();
}

function cancelButton(id) {
  const cancel = guarded(() => ask(`/api/jobs/${id}/cancel`, { method: "POST" }));
  return make("button", { type: "button", "aria-label": `Cancel job ${id}`, onclick: cancel }, "Cancel");
}

/** How far the job that runs is. */
export function takeProgress(progress) {
  if (progress.job !== watched || find(watched)?.state === "done") return;
  const loading = progress.stage === "loading";
  byId("progress-text").textContent = loading ? "Loading the network" : `Step ${progress.done} of ${progress.of}`;
  const bar = byId("progress");
  if (loading || !progress.of) bar.removeAttribute("value");
  else bar.value = progress.done / progress.of;
  if (progress.image) picture(progress.image, "The image so far");
  const quarter = progress.of ? Math.floor(4 * progress.done / progress.of) : 0;
  if (quarter > 0 && quarter !== told) {
    told = quarter;
    byId("announce").textContent = `Step ${progress.done} of ${progress.of}`;
  }
}

function picture(address, words) {
  const image = byId("picture");
  image.src = address;
  image.alt = words;
  image.hidden = false;
  image.onload = () => { image.className = image.naturalWidth < 400 ? "small" : ""; };
}

/** Shows the watched job: its name, its progress, or what it made. */
function show() {
  const job = find(watched);
  if (!job) return;
  byId("stage-title").textContent = `Job ${job.id}, ${title(job)}`;
  const is = (...states) => states.includes(job.state);
  byId("progress-field").hidden = !is("waiting", "running", "stopping");
  byId("stop").hidden = !is("waiting", "running");
  byId("slide-field").hidden = byId("save").hidden = !is("done");
  byId("notes").textContent = is("done") ? job.notes.join(" ") : is("failed", "cancelled") ? state(job) : "";
  byId("notes").classList.toggle("failed", is("failed"));
  if (is("waiting")) {
    byId("progress-text").textContent = "Waiting for its turn";
    byId("progress").removeAttribute("value");
    byId("picture").hidden = true;
  }
  if (is("failed", "cancelled") && loaded !== job.id) byId("picture").hidden = true;
  if (!is("waiting", "running", "stopping") && loaded !== job.id) {
    loaded = job.id;
    byId("announce").textContent = `Job ${job.id}: ${state(job)}`;
    if (is("done")) made(job);
  }
}

/** The images of a job, all or one of them. */
function made(job) {
  const slide = byId("slide");
  const between = kind(job.wish) === "interpolate";
  byId("slide-field").hidden = job.images < 2;
  slide.min = between ? 1 : 0;
  slide.max = job.images;
  slide.value = slide.min;
  slide.oninput = () => one(job, Number(slide.value), between);
  one(job, job.images < 2 && !between ? 0 : Number(slide.value), between);
}

function one(job, number, between) {
  const address = number === 0 ? `/api/jobs/${job.id}/figure.png` : `/api/jobs/${job.id}/images/${number - 1}`;
  const all = plural(job.images, "image");
  const words = number === 0 ? `All of ${all}` : `Image ${number} of ${job.images}`;
  const place = between ? `${words}, from seed ${job.wish.seed} to ${job.wish.task.interpolate.to_seed}` : words;
  byId("slide-text").textContent = place;
  byId("slide").setAttribute("aria-valuetext", place);
  picture(address, `${words}, made by job ${job.id}: ${title(job)}`);
  const save = byId("save");
  save.href = address;
  save.download = number === 0 ? `ddpm-${job.id}.png` : `ddpm-${job.id}-${number}.png`;
}

/** Listens to buttons; `use` gets the settings of a job. */
export function begin(use) {
  onUse = use;
  byId("stop").addEventListener("click", guarded(() => ask(`/api/jobs/${watched}/cancel`, { method: "POST" })));
}
