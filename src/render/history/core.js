// Elements, figures as people read them, and what outlasts a view.
// Texts from outside enter the page by textContent alone.

const $ = (id) => document.getElementById(id);

// el("a.name", { href: "#/" }, "text", other) makes an element; children are texts or nodes, null is left out.
function el(kind, attributes, ...children) {
  const [tag, ...classes] = kind.split(".");
  const made = document.createElement(tag);
  if (classes.length) made.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined) continue;
    made.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return made;
}

function digits(value) {
  const size = Math.abs(value);
  return value.toFixed(size < 9.9995 ? 3 : size < 99.995 ? 2 : size < 999.95 ? 1 : 0);
}

function scaled(value, units) {
  let [size, unit] = units[0];
  for (const [larger, name] of units) if (Math.abs(value) >= larger * 0.99995) [size, unit] = [larger, name];
  return digits(value / size) + "\u202f" + unit;
}

const TIMES = [[1, "ns"], [1e3, "µs"], [1e6, "ms"], [1e9, "s"]];
const SIZES = [[1, "B"], [1024, "KiB"], [1048576, "MiB"], [1073741824, "GiB"]];
const prefixed = (unit) => [[1, unit], [1e3, "k" + unit], [1e6, "M" + unit], [1e9, "G" + unit], [1e12, "T" + unit]];

// A figure of a metric in four digits and a readable unit. Small counts are exact: single instructions are seen.
function figure(metric, value) {
  if (!Number.isFinite(value)) return "–";
  if (metric.unit === "ns") return scaled(value, TIMES);
  if (metric.unit === "B") return scaled(value, SIZES);
  if (metric.unit === "tok/s") return digits(value) + "\u202ftok/s";
  if (value < 1e5) return Math.round(value) + "\u202f" + metric.unit;
  return scaled(value, prefixed(metric.unit));
}

function percent(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const text = size.toFixed(size < 9.995 ? 2 : size < 999.95 ? 1 : 0);
  return (value < 0 ? "−" : "+") + text + "\u202f%";
}

function chance(p) {
  if (p < 1e-12) return "below 10⁻¹²";
  const exponent = Math.floor(Math.log10(p));
  return (p / 10 ** exponent).toFixed(0) + "·10" + superscript(exponent);
}

const superscript = (number) => String(number).replace(/./g, (c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]));

const day = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 10);
const minute = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ") + " UTC";
const plural = (count, one, many) => count.toLocaleString("en") + " " + (count === 1 ? one : many || one + "s");

// An id of the grammar shows its parts; any other is one text.
function idNode(id) {
  const parts = id.split("/");
  if (parts.length !== 4) return el("span.id", { title: id }, id);
  const node = el("span.id", { title: id });
  parts.forEach((part, at) => {
    if (at) node.append(el("i", null, "/"));
    node.append(el("span.p" + at, null, part));
  });
  return node;
}

// Colours come from the style, so that light and dark are defined in one place.
let paint = {};
function readPaint() {
  const style = getComputedStyle(document.documentElement);
  const names = ["fore", "muted", "faint", "line", "grid", "ground", "card", "worse", "better", "cursor"];
  paint = {};
  for (const name of names) paint[name] = style.getPropertyValue("--" + name).trim();
  paint.series = [0, 1, 2, 3, 4, 5].map((at) => style.getPropertyValue("--series" + at).trim());
}

// A page from disk may have no storage; then a choice lasts as long as the page.
const kept = {
  get(key) {
    try { return localStorage.getItem("tokgate-" + key); } catch { return null; }
  },
  set(key, value) {
    try { localStorage.setItem("tokgate-" + key, value); } catch { /* nothing to be done */ }
  },
};

// A canvas that is as sharp as the screen.
function fit(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = width + "px";
  canvas.style.height = height + "px";
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

const tip = {
  show(x, y, ...lines) {
    const node = $("tip");
    node.replaceChildren(...lines.flat(Infinity).filter(Boolean));
    node.hidden = false;
    const { width, height } = node.getBoundingClientRect();
    const left = x + 14 + width > innerWidth ? x - 14 - width : x + 14;
    node.style.left = Math.max(6, Math.min(left, innerWidth - width - 6)) + "px";
    node.style.top = Math.max(6, Math.min(y + 14, innerHeight - height - 6)) + "px";
  },
  hide() {
    $("tip").hidden = true;
  },
};
