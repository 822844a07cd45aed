// Views by the address behind '#', filters, and the keyboard.

// The front page as it was left for another view: it is there again at once, at the same row. Null once it is outdated.
let front = null;
let view = "";

function render() {
  tip.hide();
  if (chart) chart.remove();
  chart = null;
  const main = $("main");
  const leaves = view === "overview" && { nodes: [...main.children], top: scrollY, link: document.activeElement };
  const series = route()[1];
  view = route()[0];
  const back = view === "overview" ? front : null;
  front = view === "overview" ? null : leaves || front;
  const filters = document.querySelector(".filters");
  filters.hidden = view === "bench";
  main.replaceChildren(...(back ? back.nodes : view === "bench" ? benchView(series) : view === "roofline" ? roofline() : overview()));
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = (series ? series.id + " · " : "") + data.project + " · performance history";
  return back;
}

// Goes where the address says. The focus follows where its place is gone, so that Tab goes on from there.
function visit() {
  const back = render();
  scrollTo(0, back ? back.top : 0);
  if (![document.body, $("main")].includes(document.activeElement)) return;
  (back && back.link.isConnected ? back.link : $("main")).focus({ preventScroll: true });
}

// An address that names nothing leads to the front page.
function route() {
  const [, view, machine, metric, ...id] = location.hash.split("/");
  if (view === "roofline") return ["roofline", null];
  if (view !== "bench") return ["overview", null];
  let name = "";
  try { name = decodeURIComponent(id.join("/")); } catch { /* then it names no bench */ }
  const series = all.find((one) => one.machine.at === Number(machine) && one.metric.name === metric && one.id === name);
  return series ? ["bench", series] : ["overview", null];
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  readPaint();
}

function fillFilters() {
  const option = (value, text) => el("option", { value }, text);
  $("machine").replaceChildren(option("", "All machines"), ...data.machines.map((machine) => option(machine.at, machineName(machine) + " · " + machine.key)));
  $("machine").hidden = data.machines.length < 2;
  const used = data.metrics.filter((metric) => all.some((series) => series.metric === metric));
  $("metric").replaceChildren(option("gating", "Metrics that gate"), option("", "All metrics"), ...used.map((metric) => option(metric.name, metric.name)));
  if (!all.some((series) => series.metric.gates)) filter.metric = "";
  const choices = [["all", "All"], ["changed", "Changed"], ["worse", "Worse"]];
  $("moved").replaceChildren(...choices.map(([value, text]) =>
    el("button", { type: "button", "data-moved": value, onclick: () => change({ moved: value }) }, text)));
  showFilters();
  let waiting = 0;
  $("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => change({ text: $("search").value }), 60);
  });
  $("machine").addEventListener("change", () => change({ machine: $("machine").value }));
  $("metric").addEventListener("change", () => change({ metric: $("metric").value }));
}

function showFilters() {
  if ($("search").value !== filter.text) $("search").value = filter.text;
  $("machine").value = filter.machine;
  $("metric").value = filter.metric;
  for (const button of $("moved").children) button.setAttribute("aria-pressed", String(button.dataset.moved === filter.moved));
}

function change(what) {
  Object.assign(filter, what);
  front = null;
  showFilters();
  render();
}

const clearFilters = () => change({ text: "", machine: "", metric: "", moved: "all" });

const KEYS = [
  ["/", "search"], ["← →", "along the commits, or the points of a roofline; with Shift by ten"],
  ["Home End", "first and last commit"], ["n p", "next and previous change"],
  ["Enter", "show the commit under the cursor, where its host is known"], ["l", "log or linear"], ["+ − 0", "zoom in, out, all"],
  ["t", "light or dark"], ["Esc", "back"], ["?", "this help"],
];

function help() {
  const box = $("help");
  if (box.open) return box.close();
  box.replaceChildren(el("h2", null, "Keyboard"),
    el("dl", null, KEYS.map(([key, what]) => el("div", null, el("dt", null, el("kbd", null, key)), el("dd", null, what)))),
    el("form", { method: "dialog" }, el("button.more", null, "Close")));
  box.showModal();
}

function toggleTheme() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  kept.set("theme", dark ? "light" : "dark");
  setTheme(dark ? "light" : "dark");
  redraw();
}

// Canvases keep the colours that they were drawn with.
function redraw() {
  front = null;
  if (chart) chart.draw();
  for (const canvas of document.querySelectorAll("canvas.spark")) lazy.observe(canvas);
  for (const plot of document.querySelectorAll(".roof")) plot.paint();
}

function nextChange(by) {
  const list = chart.main.changes;
  if (!list.length) return;
  const at = list.indexOf(chart.picked);
  const next = at < 0 ? (by > 0 ? 0 : list.length - 1) : Math.max(0, Math.min(list.length - 1, at + by));
  chart.main.pick(list[next], true);
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const target = event.target instanceof Element ? event.target : document.body;
  const typing = target.closest("input, select, textarea");
  if (event.key === "Escape") {
    if (typing) { typing.blur(); if (filter.text) change({ text: "" }); }
    else if (chart) location.hash = "#/";
    return;
  }
  if (typing) return;
  const act = {
    "/": () => { if (chart) location.hash = "#/"; setTimeout(() => $("search").focus(), 0); },
    "?": help,
    t: toggleTheme,
  };
  if (chart) {
    const by = event.shiftKey ? 10 : 1;
    Object.assign(act, {
      ArrowLeft: () => chart.step(-by), ArrowRight: () => chart.step(by),
      Home: () => { chart.cursor = -1; chart.step(1); }, End: () => { chart.cursor = -1; chart.step(-1); },
      n: () => nextChange(1), p: () => nextChange(-1),
      l: () => { chart.setLog(!chart.log); pressLog(); },
      "+": () => chart.magnify(0.5), "-": () => chart.magnify(2), 0: () => chart.zoom(0, chart.count - 1),
    });
    if (target.closest("button, a") === null) {
      act.Enter = () => {
        const link = chart.cursor >= 0 && commitLink(commitOf(chart.machine.commits[chart.cursor]));
        if (link) open(link, "_blank", "noopener");
      };
    }
  }
  if (!act[event.key]) return;
  event.preventDefault();
  act[event.key]();
});

$("brand").append(el("strong", null, data.project), el("span", null, "performance history"));
$("keys").addEventListener("click", help);
$("theme").addEventListener("click", toggleTheme);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { setTheme(null); redraw(); });
narrow.addEventListener("change", () => {
  front = null;
  if (view === "overview") render();
});
history.scrollRestoration = "manual";
addEventListener("hashchange", visit);
setTheme(kept.get("theme"));
fillFilters();
$("footer").append(
  el("p", null, "Changes of level are found by E-divisive with a t-test; fewer than one commit in 5,000 of a bench is falsely marked where a clock measured. "),
  links ? el("p", null, el("a", { href: links.page, rel: "noopener noreferrer" }, links.page)) : "");
render();
