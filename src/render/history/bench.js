// One bench: its trend, the changes of its level, and its relatives.

let chart = null;
let overlaid = new Set();

const variantOf = (id) => (id.split("/").length === 4 ? id.split("/")[2] : id);

function benchView(series) {
  overlaid = new Set();
  const place = el("div.place");
  const detail = el("div", { id: "change", "aria-live": "polite" });
  const legend = el("div.legend");
  const table = changeTable(series);

  const pick = (change, centre) => {
    chart.pick(change, centre);
    detail.replaceChildren(changeDetail(change));
    for (const row of table.querySelectorAll("tr[data-at]")) {
      row.classList.toggle("picked", Number(row.dataset.at) === change.at);
    }
  };
  series.pick = pick;

  const redraw = () => {
    const before = chart;
    const others = relatives(series).filter((other) => overlaid.has(other));
    if (before) before.remove();
    chart = new Chart([series, ...others], pick, pressRange);
    if (before && before.main === series) Object.assign(chart, { from: before.from, to: before.to, picked: before.picked });
    place.replaceChildren(chart.node);
    legend.replaceChildren(...(others.length ? [series, ...others].map((one, at) =>
      el("span", null, el("b", { style: "color:" + paint.series[at % 6] }, "● "), variantOf(one.id))) : []));
    chart.draw();
    pressRange();
  };
  const parts = [
    heading(series),
    el("section.card.plot", null, tools(series, redraw), legend, place,
      el("p.note", null, explanation(series))),
    detail,
    series.changes.length ? el("section", null, el("h2", null, "Changes of level"), table)
      : el("section", null, el("h2", null, "Changes of level"), el("p.none", null, "None: the figures are of one level.")),
  ];
  queueMicrotask(() => {
    redraw();
    if (series.changes.length) pick(series.changes[series.changes.length - 1]);
  });
  return parts;
}

function heading(series) {
  const here = (other) => el("a.chip" + (other === series ? ".on" : ""), { href: other.route, "aria-current": other === series ? "page" : null },
    placeOf(other));
  const same = all.filter((other) => other.id === series.id).sort((a, b) => a.raw.metric - b.raw.metric || a.machine.at - b.machine.at);
  const rate = [
    series.elementRate ? scaled(series.elementRate, prefixed("elem/s")) : null,
    series.byteRate ? scaled(series.byteRate, prefixed("B/s")) : null,
    series.roofShare ? (series.roofShare * 100).toFixed(0) + "\u202f% of the roof" : null,
  ].filter(Boolean).join(" · ");
  return el("section.heading", null,
    el("a.back", { href: "#/" }, "← All benches"),
    el("h1", null, idNode(series.id)),
    el("p.now", null, el("strong", null, figure(series.metric, series.last)), rate ? el("span", null, rate) : null,
      series.lost > 0 ? el("span.worse", null, percent(series.lost) + " against its best level") : null),
    el("p.by", null, series.machine.key, lastSeen(series)),
    same.length > 1 ? el("div.chips", { role: "group", "aria-label": "Metrics and machines" }, same.map(here)) : null);
}

function explanation(series) {
  const line = { best: "the best sample", low: "the 10 % quantile of the samples, counted from the best", median: "the median of the samples" }[series.raw.statistic];
  return "Line: " + line + (series.low ? "; band: the middle half of the samples" : "") +
    "; dashes: the mean of a level. A break is a commit where this bench was not measured. " +
    (matchMedia("(pointer: coarse)").matches ? "Touch a place to read it; + and − zoom there." : "Drag to zoom, double-click to see all.");
}

// Other variants of the same operation, type and shape, for the same machine and metric.
function relatives(series) {
  const parts = series.id.split("/");
  if (parts.length !== 4) return [];
  return all.filter((other) => {
    const its = other.id.split("/");
    return other !== series && other.machine === series.machine && other.metric === series.metric &&
      its.length === 4 && its[0] === parts[0] && its[1] === parts[1] && its[3] === parts[3];
  });
}

function tools(series, redraw) {
  const scale = (name, log) => el("button", {
    type: "button", "aria-pressed": String(log === (kept.get("log") === "1")), "data-log": log ? "1" : "0",
    onclick: () => { chart.setLog(log); pressLog(); },
  }, name);
  const count = series.machine.commits.length;
  const range = (name, from) => el("button", { type: "button", "data-from": from, onclick: () => chart.zoom(from, count - 1) }, name);
  const zoom = (sign, name, factor) => el("button", { type: "button", "aria-label": name, onclick: () => chart.magnify(factor) }, sign);
  const others = relatives(series);
  return el("div.tools", null,
    el("div.choice", { role: "group", "aria-label": "Scale" }, scale("Linear", false), scale("Log", true)),
    el("div.choice", { role: "group", "aria-label": "Range" },
      [50, 200, 1000].filter((some) => some < count).map((some) => range("Last " + some, count - some)), range("All", 0),
      zoom("−", "Zoom out", 2), zoom("+", "Zoom in", 0.5)),
    others.length ? el("div.chips", { role: "group", "aria-label": "Compare with" }, el("span.quiet", null, "Compare"),
      others.map((other) => el("button.chip", {
        type: "button", "aria-pressed": "false", title: other.id,
        onclick: (event) => {
          if (!overlaid.delete(other)) overlaid.add(other);
          event.currentTarget.setAttribute("aria-pressed", String(overlaid.has(other)));
          redraw();
        },
      }, variantOf(other.id)))) : null);
}

function pressLog() {
  for (const button of document.querySelectorAll("[data-log]")) {
    button.setAttribute("aria-pressed", String((button.dataset.log === "1") === chart.log));
  }
}

function pressRange() {
  for (const button of document.querySelectorAll("[data-from]")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.from) === chart.from && chart.to === chart.count - 1));
  }
}

function changeTable(series) {
  const rows = [...series.changes].reverse().map((change) => {
    const commit = changeCommit(change);
    return el("tr", { "data-at": change.at },
      el("td.delta", null, el("button.link", { type: "button", onclick: () => series.pick(change, true) }, movement(change))),
      el("td", null, figure(series.metric, change.before[0]) + " → " + figure(series.metric, change.since[0])),
      el("td.what", null, el("span.subject", null, commit.subject || "(no subject)"),
        el("span.by", null, commitNode(commit), " · " + day(commit.when) + " · " + commit.author)));
  });
  return el("table.changes", null,
    el("thead", null, el("tr", null, ["Change", "Level", "First measured at"].map((title) => el("th", { scope: "col" }, title)))),
    el("tbody", null, rows));
}

function changeDetail(change) {
  const { series } = change;
  const commit = changeCommit(change), before = commitBefore(change);
  const between = commit.at - before.at;
  const level = ([mean, deviation, count]) => figure(series.metric, mean) +
    (deviation > mean * 1e-9 ? " ± " + ((deviation / mean) * 100).toFixed(2) + "\u202f%" : "") + ", " + plural(count, "commit");
  const compare = compareLink(before, commit);
  const suspects = [];
  for (let at = commit.at; at > before.at && suspects.length < 20; at--) suspects.push(commitOf(at));
  const compiler = [change.after, change.at].map((column) => {
    let name = "";
    for (const [at, rustc] of series.machine.rustc) if (at <= column) name = rustc;
    return name;
  });
  const row = (name, ...what) => el("div", null, el("dt", null, name), el("dd", null, what));
  return el("section.card.detail" + (change.worse ? ".worse" : ".better"), null,
    el("h3", null, movement(change), " ", el("span.subject", null, between === 1 ? commit.subject : "in one of " + plural(between, "commit"))),
    el("dl", null,
      row("Before", level(change.before)),
      row("Since", level(change.since)),
      row("p", chance(change.p) + ", Student\u2019s t-test at this place"),
      row(between === 1 ? "Commit" : "First measured at", commitNode(commit), " · " + minute(commit.when) + " · " + commit.author),
      row("Last measured before", commitNode(before), compare ? [" · ", el("a", { href: compare, rel: "noopener noreferrer", target: "_blank" }, "compare")] : null),
      compiler[0] !== compiler[1] ? row("Compiler", compiler[0] + " → " + compiler[1]) : null),
    between > 1 ? el("details", { open: between <= 6 }, el("summary", null, "The commits between"),
      el("ul.suspects", null, suspects.map((one) => el("li", null, commitNode(one), " ", el("span", null, one.subject),
        el("span.by", null, " " + one.author))), between > suspects.length ? el("li.quiet", null, "and " + (between - suspects.length) + " more") : null)) : null);
}
