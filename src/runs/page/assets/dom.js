// Small helpers. Text from files becomes text nodes only: it cannot become markup.
"use strict";
const SVG = "http://www.w3.org/2000/svg";

function make(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of [children].flat(3)) {
    if (child !== null && child !== undefined) node.append(child);
  }
  return node;
}
const el = (name, attributes, ...children) => make(document.createElement(name), attributes, children);
const svg = (name, attributes, ...children) => make(document.createElementNS(SVG, name), attributes, children);

let lastId = 0;
const freshId = (prefix) => `${prefix}-${++lastId}`;

// 4 significant digits, and no more zeros than it takes.
function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(3).replace(/\.?0+e/, "e");
  if (Number.isInteger(value)) return grouped(value);
  return grouped(Number(value.toPrecision(size >= 1000 ? Math.ceil(Math.log10(size)) + 1 : 4)));
}
const grouped = (value) => value.toLocaleString("en", { maximumFractionDigits: 10 });

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit + 1 < units.length) { count /= 1024; unit += 1; }
  return `${unit === 0 ? count : count.toFixed(count < 10 ? 2 : 1)} ${units[unit]}`;
}

function seconds(secs) {
  if (!Number.isFinite(secs)) return "–";
  const [days, hours, minutes] = [Math.floor(secs / 86400), Math.floor(secs / 3600) % 24, Math.floor(secs / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  if (minutes) return `${minutes} min ${Math.floor(secs) % 60} s`;
  return `${secs < 10 ? secs.toFixed(1) : Math.floor(secs)} s`;
}

const plural = (count, word, words = `${word}s`) => `${grouped(count)} ${count === 1 ? word : words}`;

// head: [name, isNumber]; rows: arrays of text or nodes.
function table(caption, head, rows, rowClass = () => null) {
  const cell = (name, [, isNumber], content, scope) =>
    el(name, { class: isNumber ? "number" : null, scope }, content);
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", null,
      el("caption", null, caption),
      el("thead", null, el("tr", null, head.map((column) => cell("th", column, column[0], "col")))),
      el("tbody", null, rows.map((row, place) =>
        el("tr", { class: rowClass(row, place) }, row.map((content, i) => cell("td", head[i], content)))))));
}
