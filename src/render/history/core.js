// Elements, figures as people read them, and what outlasts a view.
// Texts from outside enter the page by textContent alone.

const $ = (id) => document.getElementById(id);

// el("a.name", { href: "#/" }, "text", other) makes an element; children are texts or nodes; null and false are left out.
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
    if (child === null || child === undefined || child === false) continue;
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

// The same with every digit of a count.
function exactFigure(metric, value) {
  const counted = !["ns", "B", "tok/s"].includes(metric.unit);
  return counted && Number.isFinite(value) ? Math.round(value).toLocaleString("en") + "\u202f" + metric.unit : figure(metric, value);
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

// An empty canvas that is as sharp as the screen. A size is not set again: that costs new memory and a layout.
function fit(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide || canvas.height !== high) {
    Object.assign(canvas, { width: wide, height: high });
    Object.assign(canvas.style, { width: width + "px", height: height + "px" });
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

const tip = {
  // Beside a place of a plot, where that leaves the place to be seen. On narrow screens, and under a finger, it does not:
  // then above the plot, or below.
  show({ x, y, plot, finger }, ...lines) {
    const node = $("tip");
    node.replaceChildren(...lines.flat(Infinity).filter(Boolean));
    node.hidden = false;
    const { width, height } = node.getBoundingClientRect();
    // Without the scroll bar, which a tip would stand under.
    const room = document.documentElement.clientWidth;
    const right = x + 14 + width + 6 <= room, left = x - 14 - width >= 6;
    let place = [right ? x + 14 : x - 14 - width, y + 14];
    if (finger || !(right || left)) {
      const box = plot.getBoundingClientRect();
      place = [x - width / 2, box.top - height >= 6 ? box.top - height : box.bottom];
    }
    node.style.left = Math.max(6, Math.min(place[0], room - width - 6)) + "px";
    node.style.top = Math.max(6, Math.min(place[1], innerHeight - height - 6)) + "px";
  },
  hide() {
    $("tip").hidden = true;
  },
};
