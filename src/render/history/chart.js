// The trend of one or several series of one machine, on a canvas: band, line, levels, changes, cursor.

const PAD = { left: 74, right: 14, top: 26, bottom: 30 };

// So near in pixels a pointer means a figure; farther from all of them it is in a gap.
const NEAR = 12;

class Chart {
  // `series` share a machine and a metric; the first is the one that the page is about.
  constructor(series, onPick, onZoom) {
    this.series = series;
    this.main = series[0];
    this.machine = this.main.machine;
    this.onPick = onPick;
    this.onZoom = onZoom;
    this.count = this.machine.commits.length;
    this.from = 0;
    this.to = this.count - 1;
    this.log = kept.get("log") === "1";
    this.cursor = -1;
    // A cursor that a key or a finger set stays when they are lifted; a mouse takes its own along.
    this.stays = false;
    this.picked = null;
    this.canvas = el("canvas", { "aria-hidden": "true" });
    this.above = el("canvas.above", { "aria-hidden": "true" });
    this.marks = el("div.marks");
    this.zone = el("div.zone", { hidden: true });
    this.node = el("div.chart", {
      tabindex: "0", role: "group",
      "aria-label": "Trend of " + this.main.id + ". Arrow keys move along the commits, n and p go to changes.",
    }, this.canvas, this.above, this.marks, this.zone);
    this.listen();
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(this.node);
  }

  listen() {
    let start = null;
    this.node.addEventListener("pointermove", (event) => {
      const x = this.offset(event);
      if (start !== null && Math.abs(x - start) > 4) {
        this.zone.hidden = false;
        this.zone.style.left = Math.min(x, start) + "px";
        this.zone.style.width = Math.abs(x - start) + "px";
      }
      this.follow(event);
    });
    this.node.addEventListener("pointerleave", (event) => { if (start === null && event.pointerType !== "touch") this.leave(); });
    // The browser scrolls the page with this finger.
    this.node.addEventListener("pointercancel", () => this.leave());
    this.node.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.target.closest("button")) return;
      if (event.pointerType === "touch") this.follow(event);
      else start = this.offset(event);
    });
    addEventListener("pointerdown", this.elsewhere = (event) => { if (!event.target.closest(".plot")) this.leave(); });
    addEventListener("scroll", this.scrolled = () => { if (this.stays) this.point(); else this.leave(); }, { passive: true });
    addEventListener("pointerup", this.up = (event) => {
      if (start !== null && !this.zone.hidden) {
        const ends = [start, this.offset(event)].sort((a, b) => a - b).map((x) => Math.round(this.columnAt(x)));
        this.zoom(ends[0], ends[1]);
      }
      start = null;
      this.zone.hidden = true;
    });
    this.node.addEventListener("dblclick", () => this.zoom(0, this.count - 1));
    this.node.addEventListener("blur", (event) => {
      // The buttons above work on the cursor.
      if (!event.relatedTarget || !event.relatedTarget.closest(".plot")) this.leave();
    });
  }

  remove() {
    this.watch.disconnect();
    removeEventListener("pointerup", this.up);
    removeEventListener("pointerdown", this.elsewhere);
    removeEventListener("scroll", this.scrolled);
  }

  offset(event) {
    return event.clientX - this.node.getBoundingClientRect().left;
  }

  get plot() {
    return { width: Math.max(10, this.width - PAD.left - PAD.right), height: this.height - PAD.top - PAD.bottom };
  }

  x(column) {
    const span = this.to - this.from;
    return PAD.left + (span ? (column - this.from) / span : 0.5) * this.plot.width;
  }

  columnAt(x) {
    return this.from + ((x - PAD.left) / this.plot.width) * (this.to - this.from);
  }

  y(value) {
    const [least, most] = this.range;
    const share = this.log
      ? (Math.log(value) - Math.log(least)) / (Math.log(most) - Math.log(least))
      : (value - least) / (most - least);
    return PAD.top + (1 - share) * this.plot.height;
  }

  // The measured column nearest to a place, or the one that was not measured there.
  nearest(x) {
    const middle = Math.max(this.from, Math.min(Math.round(this.columnAt(x)), this.to));
    const reach = (NEAR / this.plot.width) * (this.to - this.from);
    for (let off = 0; off <= reach; off++) {
      for (const column of [middle - off, middle + off]) {
        if (column >= this.from && column <= this.to && !Number.isNaN(this.main.values[column])) return column;
      }
    }
    return middle;
  }

  zoom(from, to) {
    this.from = Math.max(0, Math.min(from, this.count - 1));
    this.to = Math.min(this.count - 1, Math.max(to, this.from + Math.min(4, this.count - 1)));
    if (this.to - this.from < 4) this.from = Math.max(0, this.to - 4);
    this.leave();
    this.draw();
    this.onZoom();
  }

  magnify(factor) {
    const { cursor, stays } = this;
    const middle = cursor >= 0 ? cursor : (this.from + this.to) / 2;
    const half = ((this.to - this.from) * factor) / 2;
    this.zoom(Math.round(middle - half), Math.round(middle + half));
    if (stays) this.stayAt(cursor);
  }

  setLog(log) {
    this.log = log;
    kept.set("log", log ? "1" : "0");
    this.draw();
  }

  pick(change, centre) {
    this.picked = change;
    if (centre && change && (change.at < this.from || change.at > this.to)) {
      const half = Math.round((this.to - this.from) / 2);
      this.zoom(change.at - half, change.at + half);
    }
    this.draw();
  }

  // Moves the cursor by measured columns, as the arrow keys do.
  step(by) {
    let column = this.cursor < 0 ? (by > 0 ? this.from - 1 : this.to + 1) : this.cursor;
    for (let left = Math.abs(by); left > 0; left--) {
      let next = column + Math.sign(by);
      while (next >= 0 && next < this.count && Number.isNaN(this.main.values[next])) next += Math.sign(by);
      if (next < 0 || next >= this.count) break;
      column = next;
    }
    if (column < 0 || column >= this.count) return;
    if (column < this.from || column > this.to) {
      const span = this.to - this.from;
      this.zoom(...(column < this.from ? [column, column + span] : [column - span, column]));
    }
    this.node.scrollIntoView({ block: "nearest" });
    this.stayAt(column);
  }

  stayAt(column) {
    this.setCursor(column);
    this.stays = true;
    this.point();
  }

  // Shows the tip of a cursor that stays, as long as its place is on the screen.
  point() {
    const box = this.node.getBoundingClientRect();
    const value = this.main.values[this.cursor];
    const y = box.top + (Number.isNaN(value) ? this.height / 2 : this.y(value));
    if (y < 0 || y > innerHeight) return tip.hide();
    tip.show({ x: box.left + this.x(this.cursor), y, plot: this.node }, ...this.describe(this.cursor));
  }

  // The cursor under a pointer; on a mark, the commit that the mark is about.
  follow(event) {
    const mark = event.target.closest(".mark");
    const finger = event.pointerType === "touch";
    this.setCursor(mark ? mark.change.at : this.nearest(this.offset(event)));
    this.stays = finger;
    tip.show({ x: event.clientX, y: event.clientY, plot: this.node, finger }, ...this.describe(this.cursor));
  }

  setCursor(column) {
    if (column === this.cursor) return;
    this.cursor = column;
    this.drawCursor();
  }

  leave() {
    this.setCursor(-1);
    this.stays = false;
    tip.hide();
  }

  describe(column) {
    const commit = commitOf(this.machine.commits[column]);
    const several = this.series.length > 1;
    const lines = this.series.map((series, at) => {
      const value = series.values[column];
      const there = !Number.isNaN(value);
      const spread = there && series.low ? figure(series.metric, series.low[column]) + " … " + figure(series.metric, series.high[column]) : null;
      return el("div.value", null,
        several ? el("b", { style: "color:" + paint.series[at % 6] }, "●") : null,
        there ? el("strong", null, exactFigure(series.metric, value)) : el("span", null, "not measured"),
        several || spread ? el("span", null, !several && "middle half ", spread) : null,
        several ? el("span.variant", null, variantOf(series.id)) : null);
    });
    const change = this.main.changes.find((one) => one.at === column);
    let rustc = "";
    for (const [at, name] of this.machine.rustc) if (at <= column) rustc = name;
    return [
      el("div.values" + (several ? ".several" : ""), null, lines),
      change ? movement(change) : null,
      el("div.subject", null, commit.subject),
      el("div.by", null, commit.short + (this.machine.isDirty.has(column) ? " (with changes)" : "") + " · " + day(commit.when) + " · " + commit.author),
      el("div.by", null, rustc.replace(/ \(.*/, "")),
    ];
  }

  measure() {
    let least = Infinity, most = -Infinity, lowest = Infinity;
    for (const series of this.series) {
      for (let at = this.from; at <= this.to; at++) {
        const value = series.values[at];
        if (Number.isNaN(value)) continue;
        const high = series.high ? series.high[at] : value;
        least = Math.min(least, value, series.low ? series.low[at] : value);
        // A burst must not press the line flat: the band may leave the plot, the line may not.
        most = Math.max(most, value, Math.min(high, value * 1.15));
        if (value > 0) lowest = Math.min(lowest, value);
      }
    }
    if (!(least <= most)) [least, most] = [0, 1];
    if (this.log && lowest < Infinity) {
      least = Math.max(least, lowest / 1.5);
      const room = Math.max(1.02, (most / least) ** 0.06);
      this.range = [least / room, most * room];
    } else {
      const room = Math.max((most - least) * 0.08, Math.abs(most) * 0.01, 1e-12);
      // From zero where that costs little of the height.
      this.range = [least > 0 && least < most * 0.25 ? 0 : Math.max(least - room, least >= 0 ? 0 : -Infinity), most + room];
    }
  }

  draw() {
    this.width = this.node.clientWidth;
    this.height = this.width < 560 ? 260 : 360;
    if (!this.width) return;
    const context = fit(this.canvas, this.width, this.height);
    this.measure();
    this.drawAxes(context);
    context.save();
    context.beginPath();
    context.rect(PAD.left, PAD.top - 4, this.plot.width + 1, this.plot.height + 8);
    context.clip();
    const alone = this.series.length === 1;
    for (let at = this.series.length - 1; at >= 0; at--) {
      const colour = paint.series[at % 6];
      const buckets = this.buckets(this.series[at]);
      if (this.series[at].low) this.drawBand(context, buckets, colour, alone ? 0.2 : 0.1);
      if (at === 0) this.drawLevels(context);
      this.drawLine(context, buckets, colour);
    }
    context.restore();
    this.placeMarks();
    this.drawCursor();
  }

  // At most one bucket a pixel: first, last, least and most of the figures in it, so that no spike is lost.
  buckets(series) {
    const { values, low, high } = series;
    const wide = Math.max(1, Math.floor((this.to - this.from + 1) / this.plot.width));
    const found = [];
    for (let start = this.from; start <= this.to; start += wide) {
      let bucket = null;
      for (let at = start; at < start + wide && at <= this.to; at++) {
        const value = values[at];
        if (Number.isNaN(value)) continue;
        bucket = bucket || { column: start + (wide - 1) / 2, first: value, least: value, most: value, low: Infinity, high: -Infinity };
        bucket.last = value;
        bucket.least = Math.min(bucket.least, value);
        bucket.most = Math.max(bucket.most, value);
        bucket.low = Math.min(bucket.low, low ? low[at] : value);
        bucket.high = Math.max(bucket.high, high ? high[at] : value);
      }
      found.push(bucket);
    }
    return found;
  }

  drawBand(context, buckets, colour, alpha) {
    context.fillStyle = colour;
    context.globalAlpha = alpha;
    for (const run of runs(buckets)) {
      context.beginPath();
      run.forEach((b) => context.lineTo(this.x(b.column), this.y(b.high)));
      run.reverse().forEach((b) => context.lineTo(this.x(b.column), this.y(Math.max(b.low, this.range[0] || b.low))));
      context.fill();
    }
    context.globalAlpha = 1;
  }

  drawLine(context, buckets, colour) {
    context.strokeStyle = context.fillStyle = colour;
    context.lineWidth = 1.5;
    context.lineJoin = "round";
    const points = this.to - this.from < this.plot.width / 9;
    for (const run of runs(buckets)) {
      context.beginPath();
      for (const b of run) {
        const x = this.x(b.column);
        for (const value of b.first <= b.last ? [b.first, b.least, b.most, b.last] : [b.first, b.most, b.least, b.last]) {
          context.lineTo(x, this.y(value));
        }
      }
      context.stroke();
      // A figure between two gaps has no line of its own.
      if (!points && run.length > 1) continue;
      for (const b of run) {
        context.beginPath();
        context.arc(this.x(b.column), this.y(b.last), 2.6, 0, 7);
        context.fill();
      }
    }
  }

  drawLevels(context) {
    const changes = this.main.changes;
    changes.forEach((change, at) => {
      const before = this.main.firstColumn;
      const after = at + 1 < changes.length ? changes[at + 1].at : this.main.lastColumn;
      const colour = change.worse ? paint.worse : paint.better;
      context.strokeStyle = paint.muted;
      context.globalAlpha = 0.55;
      context.lineWidth = 1.5;
      context.setLineDash([6, 4]);
      context.beginPath();
      if (!at) {
        context.moveTo(this.x(before), this.y(change.before[0]));
        context.lineTo(this.x(change.at - 0.5), this.y(change.before[0]));
      }
      context.moveTo(this.x(change.at - 0.5), this.y(change.since[0]));
      context.lineTo(this.x(after), this.y(change.since[0]));
      context.stroke();
      context.setLineDash([]);
      context.globalAlpha = change === this.picked ? 0.9 : 0.5;
      context.strokeStyle = colour;
      context.lineWidth = change === this.picked ? 2 : 1;
      context.beginPath();
      context.moveTo(this.x(change.at - 0.5), PAD.top);
      context.lineTo(this.x(change.at - 0.5), this.height - PAD.bottom);
      context.stroke();
      context.globalAlpha = 1;
    });
  }

  // Buttons, so that a change can be clicked, reached by Tab, and read out.
  placeMarks() {
    const focused = this.marks.contains(document.activeElement) ? document.activeElement.change : null;
    const marks = this.main.changes
      .filter((change) => change.at >= this.from && change.at <= this.to)
      .map((change) => {
        const commit = changeCommit(change);
        const mark = el("button.mark" + (change.worse ? ".worse" : ".better") + (change === this.picked ? ".picked" : ""), {
          type: "button",
          style: "left:" + this.x(change.at - 0.5) + "px",
          "aria-label": "Change of " + percent(change.delta) + " at " + commit.short + ", " + commit.subject,
          onclick: () => this.onPick(change),
        }, change.delta > 0 ? "▲" : "▼");
        mark.change = change;
        return mark;
      });
    this.marks.replaceChildren(...marks);
    const again = focused && marks.find((mark) => mark.change === focused);
    if (again) again.focus({ preventScroll: true });
  }

  drawAxes(context) {
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.textAlign = "right";
    context.lineWidth = 1;
    for (const value of ticks(this.range, this.log, Math.max(3, Math.floor(this.plot.height / 52)))) {
      const y = Math.round(this.y(value)) + 0.5;
      context.strokeStyle = paint.grid;
      context.beginPath();
      context.moveTo(PAD.left, y);
      context.lineTo(this.width - PAD.right, y);
      context.stroke();
      context.fillStyle = paint.muted;
      context.fillText(tickText(this.main.metric, value), PAD.left - 8, y);
    }
    context.textBaseline = "top";
    const places = Math.max(2, Math.floor(this.plot.width / 130));
    const base = this.height - PAD.bottom;
    context.strokeStyle = paint.line;
    context.beginPath();
    context.moveTo(PAD.left, base + 0.5);
    context.lineTo(this.width - PAD.right, base + 0.5);
    context.stroke();
    let last = "";
    for (let at = 0; at < places; at++) {
      const column = Math.round(this.from + ((this.to - this.from) * at) / (places - 1));
      const text = day(commitOf(this.machine.commits[column]).when);
      context.textAlign = at === 0 ? "left" : at === places - 1 ? "right" : "center";
      if (text !== last) context.fillText(text, this.x(column), base + 9);
      last = text;
    }
  }

  drawCursor() {
    if (!this.width) return;
    const context = fit(this.above, this.width, this.height);
    if (this.cursor < this.from || this.cursor > this.to) return;
    const x = Math.round(this.x(this.cursor)) + 0.5;
    context.strokeStyle = paint.cursor;
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x, PAD.top);
    context.lineTo(x, this.height - PAD.bottom);
    context.stroke();
    this.series.forEach((series, at) => {
      const value = series.values[this.cursor];
      if (Number.isNaN(value)) return;
      context.fillStyle = paint.series[at % 6];
      context.strokeStyle = paint.card;
      context.lineWidth = 2;
      context.beginPath();
      context.arc(x, this.y(value), 4.5, 0, 7);
      context.fill();
      context.stroke();
    });
  }
}

// The parts between gaps.
function runs(buckets) {
  const found = [[]];
  for (const bucket of buckets) {
    if (bucket) found[found.length - 1].push(bucket);
    else if (found[found.length - 1].length) found.push([]);
  }
  return found.filter((run) => run.length);
}

// Round numbers in a range.
function ticks([least, most], log, wanted) {
  if (log && most / least > 3) {
    const found = [];
    for (let exponent = Math.floor(Math.log10(least)); exponent <= Math.log10(most); exponent++) {
      for (const digit of most / least > 300 ? [1] : [1, 2, 5]) {
        const value = digit * 10 ** exponent;
        if (value >= least && value <= most) found.push(value);
      }
    }
    if (found.length > 1) return found;
  }
  const rough = (most - least) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  // The nearest by ratio.
  const step = power * ([1, 2, 5].find((factor) => factor * power * 1.42 >= rough) || 10);
  const found = [];
  for (let value = Math.ceil(least / step) * step; value <= most; value += step) found.push(value);
  return found;
}

// A tick needs no more digits than tell it from its neighbours.
function tickText(metric, value) {
  if (value === 0) return "0";
  return figure(metric, value).replace(/(\.\d*?)0+(?=\u202f)/, "$1").replace(/\.(?=\u202f)/, "");
}

// A small trend for a row of a table.
function spark(series, width, height) {
  const canvas = el("canvas.spark", { "aria-hidden": "true", width: 1, height: 1 });
  canvas.style.width = width + "px";
  canvas.style.height = height + "px";
  canvas.paint = () => {
    const context = fit(canvas, width, height);
    const values = series.values;
    // Single bursts may leave the picture; a few per cent at least, so that noise stays small.
    const sorted = values.filter((value) => value === value).sort();
    const least = sorted[Math.floor(sorted.length * 0.02)], most = sorted[Math.ceil(sorted.length * 0.98) - 1];
    const middle = (least + most) / 2, half = Math.max((most - least) * 0.6, middle * 0.03);
    const y = (value) => 3 + (1 - Math.max(-0.05, Math.min(1.05, (value - middle + half) / (2 * half)))) * (height - 6);
    const x = (at) => 2 + (at / Math.max(1, values.length - 1)) * (width - 4);
    const wide = Math.max(1, Math.floor(values.length / width));
    context.strokeStyle = paint.series[0];
    context.lineWidth = 1.2;
    context.beginPath();
    let open = false;
    for (let start = 0; start < values.length; start += wide) {
      let low = Infinity, high = -Infinity;
      for (let at = start; at < start + wide && at < values.length; at++) {
        if (values[at] === values[at]) { low = Math.min(low, values[at]); high = Math.max(high, values[at]); }
      }
      if (low > high) { open = false; continue; }
      const to = x(start + (wide - 1) / 2);
      if (open) context.lineTo(to, y(low));
      else { context.moveTo(to - 0.6, y(low)); context.lineTo(to, y(low)); }
      if (high > low) context.lineTo(to, y(high));
      open = true;
    }
    context.stroke();
    for (const change of series.changes) {
      context.fillStyle = change.worse ? paint.worse : paint.better;
      context.beginPath();
      context.arc(x(change.at), y(change.since[0]), 2.2, 0, 7);
      context.fill();
    }
  };
  lazy.observe(canvas);
  return canvas;
}

// Rows that nobody has scrolled to are not drawn.
const lazy = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    lazy.unobserve(entry.target);
    entry.target.paint();
  }
}, { rootMargin: "300px" });
