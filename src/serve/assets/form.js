// The form: what the chosen network can do, from the form to a job, and from settings to the form.

import { ask, byId, keep, make, problem } from "./page.js";
import { image } from "./image.js";

let networks = [];
// Settings of a dropped file whose network was not the chosen one: they wait until it is.
let waiting = null;

const task = () => document.querySelector("input[name=task]:checked").value;
const network = () => networks.find((one) => !one.refused && String(one.id) === byId("network").value);

/** Fetches the networks, and fills the form for the first that can be used. */
export async function begin() {
  byId("network").addEventListener("change", () => { fitNetwork(); fillAgain(); });
  byId("sampler").addEventListener("change", fitSampler);
  for (const radio of document.querySelectorAll("input[name=task]")) radio.addEventListener("change", fitTask);
  byId("dice").addEventListener("click", () => { byId("seed").value = Math.floor(Math.random() * 2 ** 32); });
  await refresh();
  if (!network()) {
    const why = networks.map((one) => `${one.name}: ${one.refused}`).join("; ");
    problem(`No network can be used. ${why || "Runs come here when they begin; or start with one: ddpm serve runs/NAME"}`);
  }
}

/** Fetches the networks again: there are new runs, and those that are trained have new checkpoints. */
export async function refresh() {
  const choice = byId("network");
  const before = network();
  networks = (await ask("/api/networks")).networks;
  const option = (one) => {
    const made = make("option", { value: one.id }, one.name + (one.refused ? " (not for this page)" : ""));
    made.disabled = Boolean(one.refused);
    return made;
  };
  keep(choice, networks.map((one) => ({ key: one.id, same: `${one.name} ${one.refused ?? ""}`, build: () => option(one) })));
  const usable = networks.filter((one) => !one.refused);
  byId("go").disabled = usable.length === 0;
  if (before && usable.some((one) => one.id === before.id)) {
    choice.value = before.id;
    fitSteps();
    return;
  }
  if (usable.length > 0) {
    choice.value = usable[0].id;
    fitNetwork();
    problem(before ? `${before.name} is gone, or cannot be used any more: ${usable[0].name} is chosen now.` : "");
    fillAgain();
    return;
  }
  fitTask();
  if (before) problem(`${before.name} is gone, or cannot be used any more, and there is no other network.`);
}

/** Fills the form with the settings that wait, now that another network is chosen. */
function fillAgain() {
  if (waiting && network()) say(fillFromFile(waiting));
}

/** Says something about the file. */
export function say(text) {
  byId("announce").textContent = byId("about-file").textContent = text;
}

function fitSteps() {
  const of = network();
  const choice = byId("step");
  const before = choice.value;
  choice.replaceChildren(make("option", { value: "" }, "newest"), ...of.steps.map((step) => make("option", { value: step }, `step ${step}`)));
  choice.value = [...choice.options].some((option) => option.value === before) ? before : "";
  byId("step-field").hidden = !of.is_run;
}

function fitNetwork() {
  const of = network();
  fitSteps();
  const colours = of.channels === 1 ? "grey" : "RGB";
  byId("about-network").textContent = `${of.width} x ${of.height} pixels, ${colours}, T = ${of.timesteps}`
    + (of.classes ? `, ${of.classes} classes` : "");
  const classes = byId("class");
  const before = classes.selectedOptions[0]?.textContent;
  const names = Array.from({ length: of.classes || 0 }, (_, number) => of.class_names[number] ?? `class ${number}`);
  classes.replaceChildren(make("option", { value: "all" }, "all in turn"),
    ...(of.can_have_no_class ? [make("option", { value: "none" }, "none")] : []),
    ...names.map((name, number) => make("option", { value: number }, name)));
  const same = [...classes.options].find((one) => one.textContent === before);
  if (same) classes.value = same.value;
  byId("steps").max = of.timesteps;
  fitTask();
}

function fitTask() {
  const of = task();
  const hide = (field, hidden) => {
    field.hidden = hidden;
    // What nobody sees must not keep the form from being sent.
    for (const input of field.querySelectorAll("input")) input.disabled = hidden;
  };
  for (const field of document.querySelectorAll("[data-for]")) hide(field, field.dataset.for !== of);
  for (const field of document.querySelectorAll("[data-not]")) hide(field, field.dataset.not === of);
  byId("image-fields").hidden = of === "sample" || of === "interpolate";
  byId("number").min = of === "interpolate" ? 2 : 1;
  if (of === "interpolate" && byId("number").value < 2) byId("number").value = 8;
  byId("class-fields").hidden = !network()?.classes;
  byId("guidance-field").hidden = !network()?.can_have_no_class;
  if (!network()) return;
  // All images of these are of one class.
  const all = [...byId("class").options].find((one) => one.value === "all");
  all.disabled = network().classes > 0 && (of === "interpolate" || of === "invert");
  if (all.disabled && byId("class").value === "all") byId("class").selectedIndex = 1;
  const fits = (sampler) => {
    if (of === "fill") return sampler.name === "ddpm";
    if (of === "invert") return sampler.name === "ddim";
    return of !== "interpolate" || !sampler.adds_noise;
  };
  const choice = byId("sampler");
  const before = choice.value;
  const some = network().samplers.filter(fits);
  choice.replaceChildren(...some.map((sampler) => make("option", { value: sampler.name }, sampler.name)));
  const usual = ["dpmpp-2m", "ddim", "ddpm"].find((name) => some.some((sampler) => sampler.name === name));
  choice.value = some.some((sampler) => sampler.name === before) ? before : usual;
  image.fit(network().id, of === "fill", network().width, network().height);
  fitSampler();
}

function fitSampler() {
  if (!network()) return;
  const sampler = network().samplers.find((one) => one.name === byId("sampler").value);
  byId("about-sampler").textContent = sampler?.about ?? "";
  const steps = task() === "invert" ? Math.min(100, network().timesteps) : sampler?.steps ?? "";
  byId("steps").placeholder = `${steps}, as usual`;
}

/** The job of the form; masks and images are sent first. */
export async function wish() {
  waiting = null;
  const of = task();
  const number = (id) => (byId(id).value === "" ? null : Number(byId(id).value));
  const chosen = byId("class").value;
  const what = {
    sample: async () => "sample",
    interpolate: async () => ({ interpolate: { to_seed: byId("to-seed").value } }),
    vary: async () => ({ vary: { image: image.id(), strength: number("strength") } }),
    invert: async () => ({ invert: { image: image.id() } }),
    fill: async () => ({ fill: { image: image.id(), mask: await image.mask(), jump: number("jump"), passes: number("passes") } }),
  };
  return {
    network: network().id,
    step: byId("step").value === "" || !network().is_run ? null : Number(byId("step").value),
    raw: byId("raw").value === "raw",
    sampler: byId("sampler").value,
    steps: number("steps"),
    seed: byId("seed").value,
    number: of === "invert" ? 1 : number("number"),
    class: !network().classes || chosen === "all" ? "all" : chosen === "none" ? "none" : { number: Number(chosen) },
    guidance: network().can_have_no_class ? number("guidance") ?? 1 : 1,
    shows: byId("shows").value,
    task: await what[of](),
  };
}

function choose(kind) {
  document.querySelector(`input[name=task][value=${kind}]`).checked = true;
  fitTask();
}

/** For an image that says nothing of how it was made: the tasks that begin with one. */
export function useImage() {
  if (["sample", "interpolate"].includes(task())) choose("vary");
  else fitTask();
}

const given = (value) => value !== null && value !== undefined;

/** Fills the form with a job of the list. */
export function fillFromWish(of) {
  waiting = null;
  if (networks.some((one) => one.id === of.network && !one.refused)) {
    byId("network").value = of.network;
    fitNetwork();
  }
  const kind = typeof of.task === "string" ? of.task : Object.keys(of.task)[0];
  const more = typeof of.task === "string" ? {} : of.task[kind];
  choose(kind);
  fill({ ...of, ...more });
  byId("step").value = of.step ?? "";
  byId("shows").value = of.shows;
}

/** The network that a file was made with, if only one of the list can be it: a checkpoint of that step, or a file of that name. */
function maker(settings) {
  const fits = (one) => !one.refused
    && (one.is_run ? one.steps.includes(settings.step) : one.name.split("/").at(-1) === settings.file);
  if (fits(network())) return network();
  const some = networks.filter(fits);
  return some.length === 1 ? some[0] : null;
}

/** Fills the form with the settings in a PNG file; returns what there is to say. */
export function fillFromFile(settings) {
  waiting = settings;
  if (!network()) return "The settings of that file wait for a network that can be used.";
  const found = maker(settings);
  if (found) {
    byId("network").value = found.id;
    fitNetwork();
  }
  choose(settings.task);
  const missing = [...settings.left_out, ...fill(settings)];
  byId("step").value = found?.is_run ? settings.step : "";
  const step = given(settings.step) ? ` of step ${settings.step}` : "";
  const { sigma, clip_x0: clips } = network();
  if (given(settings.sigma) && settings.sigma !== sigma) missing.push(`sigma ${settings.sigma}`);
  if (settings.task !== "invert" && settings.clip_x0 !== clips) missing.push(clips ? "x_0 not clipped" : "x_0 clipped");
  if (found) waiting = null;
  return `The form has the settings of that file, which was made with ${settings.file || "a network"}${step}`
    + (found ? `. By its name and step that can be ${network().name}, which is chosen.` : ": choose that network, which is not the chosen one.")
    + (missing.length ? ` Not on this page, so that other images come out: ${missing.join("; ")}.` : "");
}

/** Fills the form; returns what the chosen network has no place for. */
function fill(of) {
  const missing = [];
  const sampler = byId("sampler");
  if (given(of.sampler)) {
    if ([...sampler.options].some((option) => option.value === of.sampler)) sampler.value = of.sampler;
    else missing.push(`the sampler ${of.sampler} with this network`);
  }
  for (const [id, value] of [["steps", of.steps], ["seed", of.seed], ["number", of.number], ["to-seed", of.to_seed],
    ["strength", of.strength], ["jump", of.jump], ["passes", of.passes]]) {
    if (given(value)) byId(id).value = value;
    else if (id === "steps") byId(id).value = "";
  }
  byId("raw").value = of.raw ? "raw" : "ema";
  byId("guidance").value = of.guidance ?? 1;
  if ((of.guidance ?? 1) !== 1 && !network().can_have_no_class) missing.push(`guidance ${of.guidance}`);
  const classes = byId("class");
  const wanted = typeof of.class === "object" && of.class ? of.class.number ?? of.class.name : of.class;
  const option = [...classes.options].find((one) => one.value === String(wanted) || one.textContent === wanted);
  // Without one, as at the start: all in turn, where that can be chosen.
  classes.value = (option ?? [...classes.options].find((one) => !one.disabled)).value;
  if (given(wanted) && !option) missing.push(`the class ${wanted}`);
  fitSampler();
  return missing;
}
