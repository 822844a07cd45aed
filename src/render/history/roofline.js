// Rate against intensity: how near each bench is to what the machine can do.

function roofline() {
  const machines = data.machines.filter((machine) => machine.elements_per_s && machine.bytes_per_s);
  const shown = all.filter((series) => accepts(series) && series.elementRate && series.byteRate);
  const section = el("section", null, el("h2", null, "Roofline"),
    el("p.note", null, "Each point is a bench by its last figure. The roof is measured, not promised: the best bandwidth and the best rate of elements that any bench of the machine reached. Elements are what a bench counts, such as multiply–accumulates."));
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

function roofPlot(machine, points) {
  const canvas = el("canvas", { "aria-hidden": "true" });
  const node = el("div.chart.roof", null, canvas);
  const { elements_per_s: peak, bytes_per_s: bandwidth } = machine;
  const intensity = (series) => series.raw.elements / series.raw.bytes;
  const groups = [...new Set(points.map((series) => series.id.split("/").slice(0, 2).join("/")))].sort();
  const colour = (series) => paint.series[groups.indexOf(series.id.split("/").slice(0, 2).join("/")) % 6];
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
    for (let value = x0; value <= x1 * 1.001; value *= 10) {
      line([value, y0], [value, y1]);
      context.fillText(String(Number(value.toPrecision(2))), x(value), size.height - 38);
    }
    context.fillText("elements a byte", (PAD.left + size.width - PAD.right) / 2, size.height - 18);
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (let value = y0; value <= y1 * 1.001; value *= 10) {
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
      context.fillStyle = colour(series);
      context.globalAlpha = 0.8;
      context.beginPath();
      context.arc(x(intensity(series)), y(series.elementRate), 4, 0, 7);
      context.fill();
    }
    context.globalAlpha = 1;
  };

  const nearest = (event) => {
    const box = node.getBoundingClientRect();
    const far = (series) => Math.hypot(x(intensity(series)) - (event.clientX - box.left), y(series.elementRate) - (event.clientY - box.top));
    const found = points.reduce((a, b) => (far(b) < far(a) ? b : a));
    return far(found) < 24 ? found : null;
  };
  node.addEventListener("pointermove", (event) => {
    const series = nearest(event);
    node.style.cursor = series ? "pointer" : "default";
    if (!series) return tip.hide();
    tip.show(event.clientX, event.clientY,
      el("div.value", null, el("strong", null, scaled(series.elementRate, prefixed("elem/s"))), el("span", null, scaled(series.byteRate, prefixed("B/s")))),
      el("div.subject", null, series.id),
      el("div.by", null, (series.roofShare * 100).toFixed(0) + " % of the roof"));
  });
  node.addEventListener("pointerleave", () => tip.hide());
  node.addEventListener("click", (event) => {
    const series = nearest(event);
    if (series) location.hash = series.route;
  });
  new ResizeObserver(() => node.paint()).observe(node);
  return el("figure.card.plot", null,
    el("figcaption", null, el("strong", null, machineName(machine)), el("span.by", null, machine.key)),
    el("div.legend", null, groups.map((group, at) => el("span", null, el("b", { style: "color:" + paint.series[at % 6] }, "● "), group))),
    node);
}
