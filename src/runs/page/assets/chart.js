// Line charts in SVG: a cursor that pointer and arrow keys move, values under it, and a logarithmic scale.
"use strict";
// Okabe and Ito's colours, which colour-blind people can tell apart; darkened where they would be faint on white.
const COLOURS = ["#0072b2", "#d55e00", "#00875f", "#b3477d", "#a86b00", "#3a8fc7", "#8250df", "#6e7781"];
const VIEW = { width: 560, height: 300, left: 62, right: 12, top: 12, bottom: 34 };

function key(colour, faint) {
  const mark = el("span", { class: faint ? "key faint" : "key", "aria-hidden": "true" });
  mark.style.backgroundColor = colour;
  return mark;
}

function niceTicks(least, most, count) {
  const rough = (most - least) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((s) => (most - least) / s <= count) || 10 * power;
  const ticks = [];
  for (let k = Math.ceil(least / step - 1e-9); k * step <= most + step * 1e-9; k += 1) ticks.push(k * step);
  return ticks.map((tick) => Number(tick.toPrecision(12)));
}

function logTicks(least, most) {
  const [first, last] = [Math.floor(Math.log10(least) + 1e-9), Math.ceil(Math.log10(most) - 1e-9)];
  if (last - first <= 1) return niceTicks(least, most, 5).filter((tick) => tick > 0);
  const every = Math.ceil((last - first) / 6);
  const ticks = [];
  for (let power = first; power <= last; power += every) ticks.push(10 ** power);
  return ticks.filter((tick) => tick >= least * 0.999 && tick <= most * 1.001);
}

// A scale from values to places: linear or logarithmic.
function scale(values, log, from, to) {
  let usable = values.filter((v) => Number.isFinite(v) && (!log || v > 0));
  if (usable.length === 0) usable = log ? [1, 10] : [0, 1];
  let least = usable[0], most = usable[0];
  for (const v of usable) { if (v < least) least = v; if (v > most) most = v; }
  if (least === most) {
    const margin = log ? null : Math.abs(most) * 0.1 || 1;
    [least, most] = log ? [least / 3, most * 3] : [least - margin, most + margin];
  }
  const at = log ? Math.log10 : (v) => v;
  const [a, b] = [at(least), at(most)];
  return {
    place: (v) => from + (to - from) * (at(v) - a) / (b - a),
    shows: (v) => v !== null && Number.isFinite(v) && (!log || v > 0),
    ticks: log ? logTicks(least, most) : niceTicks(least, most, 5),
  };
}

// series: { name, colour, x: [], y: [], low: [], high: [], faint }. The spec: { title, xLabel, xText, series, log, canLog }.
function chart(spec) {
  const state = { log: Boolean(spec.log), cursor: null };
  const heading = freshId("chart");
  const readout = el("p", { class: "readout", "aria-live": "polite" });
  const drawing = svg("svg", {
    viewBox: `0 0 ${VIEW.width} ${VIEW.height}`, tabindex: "0", role: "img",
    "aria-labelledby": heading, "aria-describedby": heading + "-text",
  });
  const toggle = spec.canLog === false ? null : el("label", null,
    el("input", { type: "checkbox", checked: state.log, onchange: (event) => { state.log = event.target.checked; draw(); } }),
    " log scale");
  const figure = el("figure", { class: "chart" },
    el("figcaption", null, el("span", { id: heading }, spec.title), toggle),
    drawing,
    el("p", { id: heading + "-text", class: "unseen" }, inWords(spec)),
    readout);

  // All places on the x axis that the cursor can be at.
  const places = [...new Set(spec.series.flatMap((line) => line.x.filter(Number.isFinite)))].sort((a, b) => a - b);
  let xs, ys, marks;

  function draw() {
    drawing.replaceChildren();
    xs = scale(places, false, VIEW.left, VIEW.width - VIEW.right);
    // The band does not decide the range: single steps would press the line flat.
    ys = scale(spec.series.flatMap((line) => line.y), state.log, VIEW.height - VIEW.bottom, VIEW.top);
    const bottom = VIEW.height - VIEW.bottom;
    for (const tick of ys.ticks) {
      const y = ys.place(tick);
      drawing.append(svg("line", { class: "grid", x1: VIEW.left, x2: VIEW.width - VIEW.right, y1: y, y2: y }),
        svg("text", { x: VIEW.left - 6, y: y + 4, "text-anchor": "end" }, tickText(tick)));
    }
    for (const tick of xs.ticks) {
      const x = xs.place(tick);
      drawing.append(svg("line", { class: "grid", x1: x, x2: x, y1: VIEW.top, y2: bottom }),
        svg("text", { x, y: bottom + 15, "text-anchor": "middle" }, tickText(tick)));
    }
    drawing.append(svg("text", { x: (VIEW.left + VIEW.width) / 2, y: VIEW.height - 3, "text-anchor": "middle" }, spec.xLabel));
    const clip = freshId("clip");
    drawing.append(svg("clipPath", { id: clip },
      svg("rect", { x: VIEW.left, y: VIEW.top, width: VIEW.width - VIEW.left - VIEW.right, height: bottom - VIEW.top })));
    const lines = svg("g", { "clip-path": `url(#${clip})` });
    for (const line of spec.series) lines.append(...band(line), ...strokes(line));
    marks = svg("g", {});
    drawing.append(lines, marks);
    show(state.cursor, false);
  }

  // Runs of points that can be drawn, as the line is broken where there is no value.
  function runs(line) {
    const found = [[]];
    line.x.forEach((x, i) => {
      if (xs.shows(x) && ys.shows(line.y[i])) found.at(-1).push(i);
      else if (found.at(-1).length) found.push([]);
    });
    return found.filter((run) => run.length);
  }
  const point = (x, y) => `${xs.place(x).toFixed(1)},${ys.place(y).toFixed(1)}`;
  function strokes(line) {
    return runs(line).map((run) => run.length === 1
      ? svg("circle", { cx: xs.place(line.x[run[0]]), cy: ys.place(line.y[run[0]]), r: 2.5, fill: line.colour })
      : svg("polyline", { points: run.map((i) => point(line.x[i], line.y[i])).join(" "), fill: "none",
        stroke: line.colour, "stroke-width": line.faint ? 1 : 1.8, opacity: line.faint ? 0.45 : 1, "stroke-dasharray": line.dash }));
  }
  function band(line) {
    if (!line.low) return [];
    return runs(line).filter((run) => run.length > 1).map((run) => {
      const low = (i) => (ys.shows(line.low[i]) ? line.low[i] : line.y[i]);
      const there = run.map((i) => point(line.x[i], line.high[i]));
      const back = run.toReversed().map((i) => point(line.x[i], low(i)));
      return svg("polygon", { points: [...there, ...back].join(" "), fill: line.colour, opacity: 0.13 });
    });
  }

  // The last value of a line at or before x.
  function valueAt(line, x) {
    let found = null;
    for (let i = 0; i < line.x.length && line.x[i] <= x; i += 1) if (line.y[i] !== null) found = i;
    return found;
  }
  function show(x, spoken) {
    state.cursor = x;
    marks.replaceChildren();
    readout.setAttribute("aria-live", spoken ? "polite" : "off");
    if (x === null) {
      readout.replaceChildren(...spec.series.map((line) => legend(line, null)));
      return;
    }
    const at = xs.place(x);
    marks.append(svg("line", { class: "cursor", x1: at, x2: at, y1: VIEW.top, y2: VIEW.height - VIEW.bottom }));
    const parts = [el("span", { class: "value" }, `${spec.xText ? spec.xText(x) : number(x)}:`)];
    for (const line of spec.series) {
      const i = valueAt(line, x);
      if (i !== null && ys.shows(line.y[i])) {
        marks.append(svg("circle", { cx: xs.place(line.x[i]), cy: ys.place(line.y[i]), r: 3.5, fill: line.colour }));
      }
      parts.push(legend(line, i === null ? null : line.y[i]));
    }
    readout.replaceChildren(...parts);
  }
  function legend(line, value) {
    return el("span", { class: "value" }, key(line.colour, line.faint), line.name + (value === null ? "" : ` ${number(value)}`));
  }
  function nearest(x) {
    let best = null;
    for (const place of places) if (best === null || Math.abs(place - x) < Math.abs(best - x)) best = place;
    return best;
  }
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const inside = (event.clientX - box.left) / box.width * VIEW.width;
    const share = (inside - VIEW.left) / (VIEW.width - VIEW.left - VIEW.right);
    if (places.length) show(nearest(places[0] + share * (places.at(-1) - places[0])), false);
  });
  drawing.addEventListener("pointerleave", () => show(null, false));
  drawing.addEventListener("keydown", (event) => {
    if (!places.length) return;
    const step = Math.max(1, Math.round(places.length / 100));
    const here = state.cursor === null ? places.length - 1 : places.indexOf(state.cursor);
    const to = { ArrowLeft: here - step, ArrowRight: here + step, Home: 0, End: places.length - 1, Escape: null }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(to === null ? null : places[Math.min(Math.max(to, 0), places.length - 1)], true);
  });
  draw();
  return figure;
}

function tickText(tick) {
  const size = Math.abs(tick);
  if (size >= 1e6) return `${Number((tick / 1e6).toPrecision(3))} M`;
  if (size >= 1e4) return `${Number((tick / 1e3).toPrecision(3))} k`;
  return number(tick);
}

// What the curve shows, for who does not see it.
function inWords(spec) {
  const of = (line) => {
    const known = line.y.map((y, i) => [line.x[i], y]).filter(([, y]) => y !== null && Number.isFinite(y));
    if (!known.length) return `${line.name}: no values`;
    const least = known.reduce((a, b) => (b[1] < a[1] ? b : a));
    const [first, last] = [known[0], known.at(-1)];
    return `${line.name}: from ${number(first[1])} at ${number(first[0])} to ${number(last[1])} at ${number(last[0])}, `
      + `lowest ${number(least[1])} at ${number(least[0])}`;
  };
  return `${spec.title} over ${spec.xLabel}. ${spec.series.map(of).join(". ")}. Arrow keys move the cursor.`;
}
