// The report: every section is made from the page's own data, and none is loaded from elsewhere.
"use strict";
const colour = (i) => COLOURS[i % COLOURS.length];

// What lies along the bottom of the curves.
const AXES = {
  steps: { label: "steps", of: (run, steps) => steps, text: (x) => `step ${grouped(x)}` },
  hours: { label: "hours of training", of: (run, steps, secs) => secs.map((s) => s / 3600), text: (x) => `${number(x)} h` },
  images: { label: "images trained on", of: (run, steps) => steps.map((s) => s * run.batch), text: (x) => plural(x, "image") },
};

function section(id, title, ...children) {
  const shown = children.flat().filter((child) => child !== null);
  return shown.length ? el("section", { id, "aria-labelledby": id + "-title" }, el("h2", { id: id + "-title" }, title), shown) : null;
}

// Under each other in one report of one run; with a heading for each of several.
const eachRun = (page, content) => page.runs.flatMap((run) => {
  const made = [content(run)].flat().filter((part) => part !== null);
  return made.length && page.runs.length > 1 ? [el("h3", null, run.name), ...made] : made;
});

function facts(run) {
  const state = el("span", { class: `state state-${run.state}` }, run.state_text);
  const goOn = run.go_on.map((way) => [way.what, el("code", null, way.command)]);
  const rows = [["State", state], ...run.facts, ...goOn];
  return el("dl", { class: "facts" }, rows.map(([name, value]) => [el("dt", null, name), el("dd", null, value)]));
}

function summary(page) {
  if (page.runs.length < 2) return null;
  const metrics = [...new Set(page.runs.flatMap((run) => run.evaluation.map((e) => e.metric)))];
  const head = [["run"], ["state"], ["step", true], ["loss", true], ["images/s", true],
    ...metrics.map((metric) => [`best ${metric}`, true])];
  const rows = page.runs.map((run, i) => [
    el("span", null, key(colour(i)), run.name), run.state_text, `${grouped(run.step)} of ${grouped(run.steps)}`,
    number(run.curves.smooth.at(-1)), number(run.curves.images_per_sec.at(-1)),
    ...metrics.map((metric) => {
      const found = run.evaluation.find((e) => e.metric === metric);
      return found && found.best !== null ? `${number(found.values[found.best])} at step ${grouped(found.steps[found.best])}` : "–";
    }),
  ]);
  return section("runs", "Runs", table("The runs side by side; lower is better", head, rows));
}

function curves(page) {
  const runs = page.runs.filter((run) => run.curves.step.length);
  if (!runs.length) return section("curves", "Curves", el("p", null, "No steps yet."));
  const holder = el("div", { class: "charts" });
  const several = runs.length > 1;
  const draw = (axis) => {
    const x = (run) => axis.of(run, run.curves.step, run.curves.secs);
    const lines = (field, name = field) => runs.map((run) => ({
      name: several ? run.name : name, colour: colour(page.runs.indexOf(run)), x: x(run), y: run.curves[field],
    }));
    const loss = runs.flatMap((run) => {
      const at = x(run), c = run.curves, of = colour(page.runs.indexOf(run));
      const smooth = { name: several ? run.name : "smoothed", colour: of, x: at, y: c.smooth };
      if (several) return [smooth];
      return [{ name: c.every > 1 ? `mean of ${plural(c.every, "step")}` : "loss", colour: of, x: at, y: c.loss, low: c.low, high: c.high, faint: true }, smooth];
    });
    const quarters = (run) => ["q1", "q2", "q3", "q4"].map((q, i) => ({
      name: ["t in the first quarter", "second", "third", "last"][i], colour: colour(i), x: x(run), y: run.curves[q],
    })).filter((line) => line.y.some((y) => y !== null));
    const common = { xLabel: axis.label, xText: axis.text };
    const charts = [
      chart({ ...common, title: "Loss", series: loss, log: true }),
      ...runs.filter((run) => quarters(run).length).map((run) => chart({
        ...common, title: `Loss by quarter of t, smoothed${several ? `: ${run.name}` : ""}`, series: quarters(run), log: true })),
      chart({ ...common, title: "Gradient norm", series: lines("grad_norm", "gradient norm"), log: true }),
      chart({ ...common, title: "Learning rate", series: lines("lr", "learning rate") }),
      chart({ ...common, title: "Images per second", series: lines("images_per_sec", "images/s") }),
    ];
    holder.replaceChildren(...charts);
  };
  draw(AXES.steps);
  const choice = el("fieldset", null, el("legend", null, "Against"), Object.entries(AXES).map(([id, axis]) =>
    el("label", null, el("input", { type: "radio", name: "axis", value: id, checked: id === "steps", onchange: () => draw(axis) }), ` ${axis.label}`)));
  return section("curves", "Curves", el("div", { class: "controls" }, choice), holder);
}

function lossOverT(page) {
  return section("loss-over-t", "Loss over t", eachRun(page, (run) => {
    if (!run.by_t.length) return null;
    const middle = (i) => (i + 0.5) * run.timesteps / run.by_t[0].values.length;
    const series = run.by_t.map((part, i) => ({
      name: part.name, colour: colour(i), x: part.values.map((_, k) => middle(k)), y: part.values }));
    return [
      chart({ title: "Mean loss of an image at time step t", xLabel: "t", xText: (t) => `t around ${Math.round(t)}`, series, log: true }),
      el("p", { class: "soft" }, `Means over twelfths of the ${grouped(run.timesteps)} time steps, of the images trained on.`),
    ];
  }));
}

function gridSlider(run) {
  if (!run.grids.length) return null;
  const last = run.grids.length - 1;
  const slider = el("input", { type: "range", min: 0, max: last, value: last, step: 1, id: freshId("grid") });
  const output = el("output", { for: slider.id });
  const pictures = [["ema", "EMA weights"], ["raw", "raw weights"]]
    .filter(([which]) => run.grids.some((grid) => grid[which]))
    .map(([which, name]) => ({ which, name, image: el("img", { alt: "" }) }));
  const figures = pictures.map(({ name, image }) => el("figure", null, el("figcaption", null, name), image));
  function show() {
    const grid = run.grids[Number(slider.value)];
    const step = `step ${grouped(grid.step)}`;
    output.textContent = step;
    slider.setAttribute("aria-valuetext", step);
    pictures.forEach(({ which, name, image }, i) => {
      figures[i].hidden = !grid[which];
      // Small images are shown as the pixels that they are.
      image.onload = () => image.classList.toggle("small", image.naturalWidth < 200);
      if (grid[which]) { image.src = grid[which]; image.alt = `Sample grid at ${step}, ${name}`; }
    });
  }
  slider.addEventListener("input", show);
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; play.textContent = "Play"; };
  const play = el("button", { type: "button", onclick: () => {
    if (timer) return stop();
    if (Number(slider.value) === last) slider.value = 0;
    play.textContent = "Stop";
    show();
    timer = setInterval(() => {
      slider.value = Number(slider.value) + 1;
      show();
      if (Number(slider.value) === last) stop();
    }, 300);
  } }, "Play");
  show();
  return [
    el("div", { class: "slider" }, el("label", { for: slider.id }, "Step"), slider, output, last > 0 ? play : null),
    el("div", { class: "grids" }, figures),
    run.grids_note ? el("p", { class: "soft" }, run.grids_note) : null,
  ];
}

function evaluation(page) {
  const metrics = [...new Set(page.runs.flatMap((run) => run.evaluation.map((e) => e.metric)))];
  if (!metrics.length) return null;
  const charts = metrics.map((metric) => chart({
    title: metric, xLabel: "steps", xText: AXES.steps.text,
    series: page.runs.flatMap((run, i) => run.evaluation.filter((e) => e.metric === metric).map((e) => ({
      name: page.runs.length > 1 ? run.name : metric, colour: colour(i), x: e.steps, y: e.values }))),
  }));
  const tables = eachRun(page, (run) => {
    if (!run.evaluation.length) return null;
    const steps = [...new Set(run.evaluation.flatMap((e) => e.steps))].sort((a, b) => a - b);
    const value = (e, step) => {
      const at = e.steps.indexOf(step);
      return at < 0 ? "–" : at === e.best ? el("strong", null, `${number(e.values[at])} (best)`) : number(e.values[at]);
    };
    return el("details", null, el("summary", null, "All values"), table("Evaluations; lower is better",
      [["step", true], ...run.evaluation.map((e) => [e.metric, true])],
      steps.map((step) => [grouped(step), ...run.evaluation.map((e) => value(e, step))])));
  });
  return section("evaluation", "Evaluation", el("div", { class: "charts" }, charts), tables);
}

function dataSet(page) {
  return section("data", "Images trained on", eachRun(page, (run) => {
    const data = run.data;
    const parts = [el("dl", { class: "facts" }, data.facts.map(([name, value]) => [el("dt", null, name), el("dd", null, value)]))];
    if (data.sheet) parts.push(el("figure", null, el("figcaption", null, data.sheet_text), el("img", { class: "sheet", src: data.sheet, alt: data.sheet_text })));
    if (data.classes.length) {
      parts.push(el("details", { open: data.classes.length <= 12 }, el("summary", null, plural(data.classes.length, "class", "classes")),
        table("Images of each class", [["class"], ["images", true]], data.classes.map((c) => [c.name, grouped(c.images)]))));
    }
    if (data.duplicates.length) {
      parts.push(el("details", null, el("summary", null, data.duplicates_text),
        table("Images that are equal once decoded and resized", [["images"]], data.duplicates.map((group) => [group]))));
    }
    if (data.skipped.length) {
      parts.push(el("details", null, el("summary", null, data.skipped_text),
        table("Files left out", [["file"], ["reason"]], data.skipped.map((s) => [s.name, s.reason]))));
    }
    return parts;
  }));
}

function settings(page) {
  if (page.runs.length > 1) {
    const rows = page.differences.map((row) => [el("code", null, row.setting), ...row.values.map((v) => v ?? "–")]);
    return section("settings", "Settings that differ", rows.length
      ? table("Settings that are not the same in all runs", [["setting"], ...page.runs.map((run) => [run.name])], rows)
      : el("p", null, "All settings are the same."));
  }
  const run = page.runs[0];
  const differs = run.settings.filter((s) => s.preset !== s.value);
  const head = [["setting"], ["value"], [`preset ${run.preset}`]];
  const row = (s) => [el("code", null, s.setting), s.value ?? "not set", s.preset === s.value ? "the same" : s.preset ?? "not set"];
  return section("settings", "Settings",
    differs.length ? table(`What differs from the preset ${run.preset}`, head, differs.map(row))
      : el("p", null, `All settings are those of the preset ${run.preset}.`),
    run.settings.length ? el("details", null, el("summary", null, "All settings"),
      table("All settings", head, run.settings.map(row), (_, i) => run.settings[i].preset !== run.settings[i].value ? "differs" : null)) : null);
}

function incidents(page) {
  return section("incidents", "Incidents", eachRun(page, (run) => run.incidents.length
    ? table("Steps whose numbers went wrong; nothing of them is in a checkpoint",
      [["step", true], ["loss", true], ["gradient norm", true], ["largest gradients"]],
      run.incidents.map((i) => [grouped(i.step), i.loss, i.grad_norm, i.gradients]))
    : el("p", null, "None.")));
}

function checkpoints(page) {
  return section("checkpoints", "Checkpoints", eachRun(page, (run) => run.checkpoints.length
    ? table("Checkpoints of the run", [["file"], ["step", true], ["size", true], [""]],
      run.checkpoints.map((c) => [c.name, grouped(c.step), bytes(c.bytes), c.marks]))
    : el("p", null, "None yet.")));
}

function render(page) {
  const single = page.runs.length === 1;
  document.title = single ? `${page.runs[0].name} · ddpm` : `${page.runs.length} runs · ddpm`;
  const sections = [
    summary(page), curves(page), lossOverT(page),
    section("grids", "Sample grids", eachRun(page, gridSlider)),
    evaluation(page), dataSet(page), settings(page), incidents(page), checkpoints(page),
  ].filter((part) => part !== null);
  const links = sections.map((part) => el("li", null, el("a", { href: `#${part.id}` }, part.querySelector("h2").textContent)));
  document.body.replaceChildren(
    el("a", { class: "skip", href: "#main" }, "Skip to the curves"),
    el("header", null,
      el("h1", null, single ? page.runs[0].name : plural(page.runs.length, "run")),
      page.runs.flatMap((run) => [single ? null : el("h2", null, run.name), facts(run)]),
      page.runs.flatMap((run) => run.remarks.map((remark) => el("p", { class: "remark" }, single ? remark : `${run.name}: ${remark}`))),
      el("nav", { "aria-label": "Sections" }, el("ul", null, links))),
    el("main", { id: "main", tabindex: "-1" }, sections),
    el("footer", null, `Made by ${page.program} at ${page.made_at}. Everything is in this file.`));
}

render(JSON.parse(document.getElementById("data").textContent));
