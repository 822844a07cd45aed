// The data as Rust wrote them, and what follows from them.

const data = JSON.parse($("data").textContent);
const links = data.links;

function commitOf(at) {
  const [id, when, author, subject] = data.commits[at];
  return { at, id, short: id.slice(0, 9), when, author, subject };
}

const commitLink = (commit) => (links ? links.commit + commit.id : null);
const compareLink = (from, to) => (links && links.compare ? links.compare + from.id + "..." + to.id : null);

// All series, each knowing its machine; the figures are read back when they are first asked for.
const all = [];
data.machines.forEach((machine, machineAt) => {
  machine.at = machineAt;
  machine.isDirty = new Set(machine.dirty);
  for (const raw of machine.series) {
    const series = {
      raw, machine,
      id: raw.id,
      metric: data.metrics[raw.metric],
      changes: raw.changes || [],
      limit: raw.limit,
    };
    series.words = (raw.id + " " + series.metric.name + " " + machine.key).toLowerCase();
    series.route = "#/bench/" + machineAt + "/" + series.metric.name + "/" + encodeURIComponent(raw.id);
    for (const change of series.changes) change.series = series;
    Object.defineProperty(series, "values", { get: () => figuresOf(series).values });
    Object.defineProperty(series, "low", { get: () => figuresOf(series).low });
    Object.defineProperty(series, "high", { get: () => figuresOf(series).high });
    all.push(series);
  }
});

// NaN is a gap: whatever is reckoned with it stays a gap.
function figuresOf(series) {
  if (series.figures) return series.figures;
  const { v, l, h, scale } = series.raw;
  const values = new Float64Array(v.length).fill(NaN);
  const low = l ? new Float64Array(v.length).fill(NaN) : null;
  const high = h ? new Float64Array(v.length).fill(NaN) : null;
  for (let at = 0; at < v.length; at++) {
    if (v[at] === null) continue;
    values[at] = v[at] * scale;
    if (l) low[at] = (v[at] - l[at]) * scale;
    if (h) high[at] = (v[at] + h[at]) * scale;
  }
  series.figures = { values, low, high };
  return series.figures;
}

// So many bytes for an element are no arithmetic of one: such a bench counts something larger, tokens or requests, and
// cannot be compared by its elements.
const LARGE = 4096;
const isArithmetic = ({ elements, bytes }) => Boolean(elements && bytes) && bytes / elements < LARGE;

// The first and the last figure, the mean since the last change, and the best mean that any level had.
for (const series of all) {
  const v = series.raw.v;
  let last = v.length - 1;
  while (last >= 0 && v[last] === null) last--;
  series.firstColumn = v.findIndex((value) => value !== null);
  series.lastColumn = last;
  series.last = last < 0 ? NaN : v[last] * series.raw.scale;
  const levels = series.changes.map((change) => change.before[0]);
  const newest = series.changes[series.changes.length - 1];
  const now = newest ? newest.since[0] : NaN;
  if (newest) levels.push(now);
  series.change = newest || null;
  const best = series.metric.higher ? Math.max(...levels) : Math.min(...levels);
  // How much worse than the best level it is now, in percent; 0 for a series that never changed.
  series.lost = !newest ? 0 : (series.metric.higher ? best / now - 1 : now / best - 1) * 100;
  if (series.metric.name === "time" && series.last > 0) {
    const rate = (work) => (work ? (work * 1e9) / series.last : null);
    series.elementRate = rate(series.raw.elements);
    series.byteRate = rate(series.raw.bytes);
    series.roofShare = roofShare(series);
  }
}

// The share of what this machine's best benches reached: of the bandwidth, of the arithmetic, or of the lower of both at
// the bench's own intensity. null where a bench tells no work, or work of another kind.
function roofShare(series) {
  const { elements_per_s: peak, bytes_per_s: bandwidth } = series.machine;
  const { elements, bytes } = series.raw;
  if (isArithmetic(series.raw) && peak && bandwidth) {
    return series.elementRate / Math.min(peak, (bandwidth * elements) / bytes);
  }
  return !elements && bytes && bandwidth ? series.byteRate / bandwidth : null;
}

const changeCommit = (change) => commitOf(change.series.machine.commits[change.at]);
const commitBefore = (change) => commitOf(change.series.machine.commits[change.after]);

// All changes of level, the newest first; of one commit the largest first.
const changes = all
  .flatMap((series) => series.changes)
  .sort((a, b) =>
    b.series.machine.commits[b.at] - a.series.machine.commits[a.at] || Math.abs(b.delta) - Math.abs(a.delta));

// What the filters leave, shared by all views.
const filter = { text: "", machine: "", metric: "gating", moved: "all" };

function accepts(series) {
  if (filter.machine !== "" && series.machine.at !== Number(filter.machine)) return false;
  if (filter.metric === "gating" ? !series.metric.gates : filter.metric !== "" && series.metric.name !== filter.metric) {
    return false;
  }
  if (filter.moved === "changed" && !series.changes.length) return false;
  if (filter.moved === "worse" && !(series.lost > 0)) return false;
  return filter.text.toLowerCase().split(/\s+/).every((word) => series.words.includes(word));
}
