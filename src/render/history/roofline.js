// Rate against intensity: how near each bench is to what the machine can do.

// Six colours are not enough for all groups; a colour that comes again has another shape.
const SHAPES = [
  { sign: "●", trace: (context, x, y) => context.arc(x, y, 4, 0, 7) },
  { sign: "■", trace: (context, x, y) => context.rect(x - 3.5, y - 3.5, 7, 7) },
  { sign: "▲", trace: (context, x, y) => polygon(context, [[x, y - 5], [x + 4.7, y + 3.5], [x - 4.7, y + 3.5]]) },
  { sign: "◆", trace: (context, x, y) => polygon(context, [[x, y - 5.2], [x + 5.2, y], [x, y + 5.2], [x - 5.2, y]]) },
];

const polygon = (context, corners) => corners.forEach((corner) => context.lineTo(...corner));

function roofline() {
  const machines = data.machines.filter((machine) => machine.elements_per_s && machine.bytes_per_s);
  const shown = all.filter((series) => accepts(series) && series.elementRate && isArithmetic(series.raw));
  const section = el("section", null, el("h2", null, "Roofline"),
    el("p.note", null, "Each point is a bench by its last figure. The roof is measured, not promised: the best bandwidth and the best rate of elements that any bench of the machine reached. Elements are what a bench counts, such as multiply–accumulates; a bench that counts something larger, such as tokens, has no place here."));
  if (!shown.length) {
    section.append(el("p.none", null, "No bench that passes the filters tells both its elements and its bytes."));
    return [section];
  }
  for (const machine of machines) {
    const points = shown.filter((series) => series.machine === machine);
    if (points.length) section.append(roofPlot(machine, points));
  }
  return [section];
}

// Powers of ten from one to another, so many at most.
function decades(from, to, most) {
  const count = Math.round(Math.log10(to / from));
  const step = Math.max(1, Math.ceil(count / most));
  return Array.from({ length: Math.floor(count / step) + 1 }, (_, at) => from * 10 ** (at * step));
}

function roofPlot(machine, points) {
  const canvas = el("canvas", { "aria-hidden": "true" });
  const above = el("canvas.above", { "aria-hidden": "true" });
  const node = el("div.chart.roof", {
    tabindex: "0", role: "group",
    "aria-label": "Roofline of " + machineName(machine) + ". Arrow keys move along the benches, Enter opens one.",
  }, canvas, above);
  const { elements_per_s: peak, bytes_per_s: bandwidth } = machine;
  const intensity = (series) => series.raw.elements / series.raw.bytes;
  const groupOf = (series) => series.id.split("/").slice(0, 2).join("/");
  const groups = [...new Set(points.map(groupOf))].sort();
  const groupAt = new Map(points.map((series) => [series, groups.indexOf(groupOf(series))]));
  const xs = points.map(intensity), ys = points.map((series) => series.elementRate);
  const ridge = peak / bandwidth;
  const range = (values) => [10 ** Math.floor(Math.log10(Math.min(...values) * 0.9)), 10 ** Math.ceil(Math.log10(Math.max(...values) * 1.1))];
  const [x0, x1] = range([...xs, ridge]), [y0, y1] = range([...ys, peak]);
  let size = { width: 0, height: 0 };
  const x = (value) => PAD.left + (Math.log(value / x0) / Math.log(x1 / x0)) * (size.width - PAD.left - PAD.right);
  const y = (value) => PAD.top + (1 - Math.log(value / y0) / Math.log(y1 / y0)) * (size.height - PAD.top - 44);

  node.paint = () => {
    size = { width: node.clientWidth, height: node.clientWidth < 560 ? 320 : 460 };
    if (!size.width) return;
    const context = fit(canvas, size.width, size.height);
    ring();
    context.font = "11px system-ui, sans-serif";
    context.lineWidth = 1;
    const line = (...places) => {
      context.beginPath();
      for (const [to, at] of places) context.lineTo(x(to), y(at));
      context.stroke();
    };
    context.strokeStyle = paint.grid;
    context.fillStyle = paint.muted;
    context.textAlign = "center";
    context.textBaseline = "top";
    for (const value of decades(x0, x1, (size.width - PAD.left - PAD.right) / 56)) {
      line([value, y0], [value, y1]);
      context.fillText(String(Number(value.toPrecision(2))), x(value), size.height - 38);
    }
    context.fillText("elements a byte", (PAD.left + size.width - PAD.right) / 2, size.height - 18);
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const value of decades(y0, y1, (size.height - PAD.top - 44) / 24)) {
      line([x0, value], [x1, value]);
      context.fillText(scaled(value, prefixed("")).replace(/\.0+(?=\u202f)/, ""), PAD.left - 8, y(value));
    }
    context.strokeStyle = paint.muted;
    context.lineWidth = 2;
    const foot = y0 / bandwidth > x0 ? y0 / bandwidth : x0;
    line([foot, foot * bandwidth], [ridge, peak], [x1, peak]);
    context.fillStyle = paint.fore;
    context.textAlign = "right";
    context.textBaseline = "bottom";
    context.fillText(scaled(peak, prefixed("elem/s")), size.width - PAD.right - 4, y(peak) - 5);
    context.save();
    const middle = Math.sqrt(foot * ridge);
    context.translate(x(middle), y(middle * bandwidth));
    context.rotate(Math.atan2(y(peak) - y(foot * bandwidth), x(ridge) - x(foot)));
    context.textAlign = "center";
    context.fillText(scaled(bandwidth, prefixed("B/s")), 0, -5);
    context.restore();
    for (const series of points) {
      const at = groupAt.get(series);
      context.fillStyle = paint.series[at % 6];
      context.globalAlpha = 0.8;
      context.beginPath();
      SHAPES[Math.floor(at / 6) % SHAPES.length].trace(context, x(intensity(series)), y(series.elementRate));
      context.fill();
    }
    context.globalAlpha = 1;
  };

  // The bench that the tip is about, marked among its neighbours.
  let held = null;
  const ring = () => {
    if (!size.width) return;
    const context = fit(above, size.width, size.height);
    if (!held) return;
    context.strokeStyle = paint.fore;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(x(intensity(held)), y(held.elementRate), 7, 0, 7);
    context.stroke();
  };
  const hold = (series, place) => {
    if (series !== held) {
      held = series;
      ring();
    }
    if (!series) return tip.hide();
    tip.show({ ...place, plot: node },
      el("div.value", null, el("strong", null, scaled(series.elementRate, prefixed("elem/s"))), el("span", null, scaled(series.byteRate, prefixed("B/s")))),
      el("div.subject", null, series.id),
      el("div.by", null, (series.roofShare * 100).toFixed(0) + "\u202f% of the roof" + (lastSeen(series) || "")));
  };

  const nearest = (event) => {
    const box = node.getBoundingClientRect();
    const far = (series) => Math.hypot(x(intensity(series)) - (event.clientX - box.left), y(series.elementRate) - (event.clientY - box.top));
    const found = points.reduce((a, b) => (far(b) < far(a) ? b : a));
    return far(found) < 24 ? found : null;
  };
  node.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") return;
    const series = nearest(event);
    node.style.cursor = series ? "pointer" : "default";
    hold(series, { x: event.clientX, y: event.clientY });
  });
  node.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") hold(null); });
  node.addEventListener("blur", () => hold(null));
  node.addEventListener("click", (event) => {
    const series = nearest(event);
    // A finger cannot hover: its first touch asks, the second one opens.
    if (event.pointerType === "touch" && series !== held) return hold(series, { x: event.clientX, y: event.clientY, finger: true });
    if (series) location.hash = series.route;
  });
  const inOrder = [...points].sort((a, b) => intensity(a) - intensity(b) || a.elementRate - b.elementRate);
  node.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" && held) location.hash = held.route;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const last = inOrder.length - 1;
    const at = held ? inOrder.indexOf(held) + by * (event.shiftKey ? 10 : 1) : by > 0 ? 0 : last;
    const series = inOrder[Math.max(0, Math.min(at, last))];
    node.scrollIntoView({ block: "nearest" });
    const box = node.getBoundingClientRect();
    hold(series, { x: box.left + x(intensity(series)), y: box.top + y(series.elementRate) });
  });
  new ResizeObserver(() => node.paint()).observe(node);
  return el("figure.card.plot", null,
    el("figcaption", null, el("strong", null, machineName(machine)), el("span.by", null, machine.key)),
    el("div.legend", null, groups.map((group, at) => el("span", null,
      el("b", { style: "color:var(--series" + (at % 6) + ")" }, SHAPES[Math.floor(at / 6) % SHAPES.length].sign + " "), group))),
    node);
}
