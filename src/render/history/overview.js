// The front page: what moved last, what is far from the limit, and every bench.

const FEW = 8;
const MANY = 30;

// Where the style makes cards of rows.
const narrow = matchMedia("(max-width: 620px)");

function overview() {
  const shown = all.filter(accepts);
  const ids = new Set(shown.map((series) => series.id));
  return [
    summary(shown, ids),
    movedLast(shown),
    el("div.pair", null, belowRoof(shown), lostMost(shown)),
    everyBench(shown),
  ];
}

function summary(shown, ids) {
  const head = commitOf(data.commits.length - 1);
  const worse = shown.filter((series) => series.lost > 0).length;
  const measured = new Set(data.machines.flatMap((machine) => machine.commits)).size;
  const fact = (figure, what) => el("div.fact", null, el("strong", null, figure), el("span", null, what));
  return el("section.facts", { "aria-label": "Summary" },
    fact(ids.size.toLocaleString("en"), ids.size === 1 ? "bench" : "benches"),
    fact(measured.toLocaleString("en"), "of " + plural(data.commits.length, "commit") + " measured"),
    fact(data.machines.length, data.machines.length === 1 ? "machine" : "machines"),
    fact(worse.toLocaleString("en"), "worse than at their best"),
    el("div.fact.head", null, commitNode(head, "strong"), el("span", null, "newest, " + day(head.when))));
}

function commitNode(commit, kind) {
  const link = commitLink(commit);
  const text = el("code", null, commit.short);
  return el((kind || "span") + ".commit", null,
    link ? el("a", { href: link, rel: "noopener noreferrer", target: "_blank" }, text) : text);
}

function movement(change) {
  const kind = change.worse ? "worse" : "better";
  return el("span.delta." + kind, null,
    el("span", { "aria-hidden": "true" }, change.delta > 0 ? "▲ " : "▼ "), percent(change.delta),
    el("span.quiet", null, change.worse ? " worse" : " better"));
}

function movedLast(shown) {
  const these = new Set(shown);
  const moved = changes.filter((change) => these.has(change.series));
  // One commit often moves many benches: it is one event.
  const events = [];
  for (const change of moved) {
    const commit = changeCommit(change).at;
    const last = events[events.length - 1];
    if (last && last.commit === commit) last.changes.push(change);
    else events.push({ commit, changes: [change] });
  }
  const section = el("section", { id: "moved-last" },
    el("h2", null, "Moved last", el("small", null, moved.length ? plural(moved.length, "change") + " of level in all" : null)));
  if (!events.length) {
    section.append(el("p.none", null, "No bench changed its level."));
    return section;
  }
  const list = el("ol.events");
  section.append(list);
  grow(list, events, FEW, (event) => {
    const commit = commitOf(event.commit);
    const lead = event.changes.slice(0, 4).map((change) =>
      el("li", null,
        el("a", { href: change.series.route }, idNode(change.series.id)),
        el("span.metric", null, change.series.metric.name),
        movement(change)));
    const more = event.changes.length - lead.length;
    return el("li.event", null,
      el("div.what", null,
        el("span.subject", null, commit.subject || "(no subject)"),
        el("span.by", null, commitNode(commit), " · " + day(commit.when) + " · " + commit.author)),
      el("ul", null, lead, more > 0 ? el("li.quiet", null, "and " + plural(more, "other bench", "other benches")) : null));
  });
  return section;
}

function belowRoof(shown) {
  // Of the variants of one shape only the fastest says how far the machine is from being used.
  const fastest = new Map();
  for (const series of shown) {
    if (!series.roofShare) continue;
    const parts = series.id.split("/");
    const shape = series.machine.at + "/" + (parts.length === 4 ? [parts[0], parts[1], parts[3]].join("/") : series.id);
    const other = fastest.get(shape);
    if (!other || other.roofShare < series.roofShare) fastest.set(shape, series);
  }
  const rows = [...fastest.values()].sort((a, b) => a.roofShare - b.roofShare);
  const section = el("section.card", null,
    el("h2", null, "Slowest against the limit", el("small", null, "share of the machine's roof")));
  if (!rows.length) {
    section.append(el("p.none", null, "No bench here tells how many elements or bytes it works through."));
    return section;
  }
  section.append(el("p.note", null, "The fastest variant of each shape. The roof is the best bandwidth and the best rate of elements that any bench of the machine reached. ",
    el("a", { href: "#/roofline" }, "See the plot")));
  const list = el("ul.bars");
  section.append(list);
  grow(list, rows, FEW, (series) => bar(series, series.roofShare, Math.round(series.roofShare * 1000) / 10 + "\u202f%", "share"));
  return section;
}

function lostMost(shown) {
  const rows = shown.filter((series) => series.lost > 0).sort((a, b) => b.lost - a.lost);
  const section = el("section.card", null,
    el("h2", null, "Worse than at their best", el("small", null, "level now against the best level")));
  if (!rows.length) {
    section.append(el("p.none", null, "Every bench is on its best level."));
    return section;
  }
  section.append(el("p.note", null, "The mark on the bar is what the gate allows in one step."));
  const most = rows[0].lost;
  const list = el("ul.bars");
  section.append(list);
  grow(list, rows, FEW, (series) => {
    const row = bar(series, series.lost / most, percent(series.lost), "lost");
    if (series.limit < most) {
      row.querySelector(".track").append(el("i.limit", { style: "left:" + (series.limit / most) * 100 + "%", title: "the gate allows " + series.limit + " %" }));
    }
    return row;
  });
  return section;
}

function bar(series, share, text, kind) {
  const width = Math.max(0.5, Math.min(1, share) * 100);
  return el("li", null,
    el("a", { href: series.route }, idNode(series.id), kind === "lost" ? el("span.metric", null, " " + placeOf(series)) : null),
    el("span.number", null, text),
    el("span.track." + kind, null, el("i.fill", { style: "width:" + width + "%" })));
}

// Appends the first rows, and a button for more.
function grow(list, rows, count, make) {
  let shown = 0;
  const button = el("button.more", { type: "button", onclick: () => add(Math.max(count * 4, MANY)) });
  function add(by) {
    list.append(...rows.slice(shown, shown + by).map(make));
    shown += by;
    button.textContent = "Show more (" + (rows.length - shown).toLocaleString("en") + ")";
    if (shown >= rows.length) button.remove();
  }
  add(count);
  if (shown < rows.length) list.after(button);
}

const order = { by: "id", up: true };
const COLUMNS = [
  ["id", "Bench", (series) => series.id],
  ["last", "Last", (series) => series.last],
  ["trend", "Trend", null],
  ["delta", "Last change", (series) => (series.change ? series.change.delta : NaN)],
  ["lost", "Against its best", (series) => series.lost],
];

function everyBench(shown) {
  const section = el("section", { id: "every" },
    el("h2", null, "All benches", el("small", { id: "count" }, plural(shown.length, "series", "series"))));
  if (!shown.length) {
    section.append(el("p.none", null, "Nothing matches. ",
      el("button.link", { type: "button", onclick: clearFilters }, "Clear the filters")));
    return section;
  }
  const value = COLUMNS.find(([name]) => name === order.by)[2];
  const rank = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (typeof x === "string") return x < y ? -1 : x > y ? 1 : 0;
    // What has no figure comes last, whichever way.
    return Number.isNaN(x) ? (Number.isNaN(y) ? 0 : order.up ? 1 : -1) : Number.isNaN(y) ? (order.up ? -1 : 1) : x - y;
  };
  const rows = [...shown].sort((a, b) => (order.up ? 1 : -1) * rank(a, b));
  const heads = COLUMNS.map(([name, title, sortable]) =>
    el("th." + name, { scope: "col", "aria-sort": order.by === name ? (order.up ? "ascending" : "descending") : null },
      sortable
        ? el("button", { type: "button", onclick: () => sortBy(name) }, title, el("span.way", null, order.by === name ? (order.up ? " ↑" : " ↓") : ""))
        : title));
  const body = el("tbody");
  const table = el("table.benches", null, el("thead", null, el("tr", null, heads)), body);
  section.append(table);
  let at = 0;
  const more = el("button.more", { type: "button", onclick: () => add(MANY) });
  // Whoever scrolls to the end gets more without asking.
  more.paint = () => {
    add(MANY);
    if (at < rows.length) lazy.observe(more);
  };
  function add(by) {
    const made = rows.slice(at, at + by).map((series) =>
      el("tr", null,
        el("td.id", null, el("a", { href: series.route }, idNode(series.id)),
          el("span.where", null, placeOf(series), lastSeen(series))),
        el("td.last", null, figure(series.metric, series.last)),
        el("td.trend", null, el("a", { href: series.route, tabindex: "-1", "aria-hidden": "true" }, spark(series, narrow.matches ? 150 : 170, 30))),
        el("td.delta" + (series.change ? "" : ".still"), null, series.change ? movement(series.change) : el("span.quiet", null, "–")),
        el("td.lost", null, series.lost > 0 ? percent(series.lost) : el("span.quiet", null, "best"))));
    body.append(...made);
    at += by;
    more.textContent = "Show more (" + (rows.length - at).toLocaleString("en") + ")";
    if (at >= rows.length) more.remove();
  }
  add(MANY);
  if (at < rows.length) {
    section.append(more);
    lazy.observe(more);
  }
  return section;
}

function sortBy(name) {
  const most = name !== "id" && name !== "last";
  if (order.by === name) order.up = !order.up;
  else Object.assign(order, { by: name, up: !most });
  render();
  document.querySelector("th." + name + " button").focus({ preventScroll: true });
}

// Since when a bench is missing, which may be gone or rare.
function lastSeen(series) {
  const { commits } = series.machine;
  if (series.lastColumn < 0 || series.lastColumn === commits.length - 1) return null;
  return " · last measured " + day(commitOf(commits[series.lastColumn]).when);
}

const machineName = (machine) => machine.cpu || machine.key;

// The metric, and the machine where others have the same.
const machinesOf = new Map();
for (const series of all) machinesOf.set(series.metric, (machinesOf.get(series.metric) || new Set()).add(series.machine));
const placeOf = (series) =>
  series.metric.name + (machinesOf.get(series.metric).size > 1 ? " · " + series.machine.key : "");
