// The curves, with events as vertical lines. uPlot (uplot.js) draws them.
import { axisTimes, clock, count, duration, figure, make, percent, rate } from "./text.js";

const SECONDS = { hour: 3600, day: 86400, all: Infinity };
const SHORTEST = 120; // seconds that the time axis shows at least
const MOST = 5000; // intervals
const HEIGHT = 170;
const NEAR = 7; // pixels from a mark at which its text is shown

// The kinds of marks that have a line: [sign, name, variable of its colour].
export const MARKS = {
  answers: ["▲", "new model answers", "--accent"],
  promoted: ["★", "promoted", "--good"],
  rejected: ["×", "rejected", "--muted"],
  failed: ["✕", "training failed", "--bad"],
  drift: ["◆", "drift", "--warning"],
  alert: ["!", "alert", "--bad"],
  end: ["○", "alert ended", "--good"],
  missed: ["?", "records missed", "--warning"],
};

const CHARTS = [
  { title: "Requests", unit: "per second", series: [
    { name: "requests", colour: "--accent", fill: true, show: rate, of: (p, s) => p ? p.requests / s : 0 },
    { name: "errors", colour: "--bad", dash: [4, 3], show: rate, of: (p, s) => p ? p.errors / s : 0 }] },
  { title: "Latency", unit: "request to reply", axis: duration, series: [
    { name: "p50", colour: "--accent", show: duration, of: (p) => p?.p50 ?? null },
    { name: "p99", colour: "--second", dash: [6, 3], show: duration, of: (p) => p?.p99 ?? null }] },
  { title: "Loss", unit: "by the time of the request", axis: (value) => String(+value.toPrecision(3)), series: [
    { name: "loss", colour: "--accent", show: figure, of: (p) => p?.loss ?? null },
    { name: "accuracy", colour: "--second", dash: [6, 3], scale: "share", show: percent, of: (p) => p?.accuracy ?? null }] },
  { title: "Unanswered", unit: "requests of this time", axis: count, series: [
    { name: "unanswered", colour: "--bad", fill: true, show: count, of: (p) => p?.unanswered ?? 0 }] },
];

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Curves {
  constructor(root, key) {
    this.span = "hour";
    this.marks = [];
    this.range = [0, SHORTEST];
    this.charts = CHARTS.map((chart) => new Chart(root, chart, this));
    key.append(...Object.values(MARKS).slice(0, 6).map(([sign, name, colour]) => {
      const item = make("li", {}, make("span", { textContent: sign, ariaHidden: "true" }), name);
      item.firstChild.style.color = `var(${colour})`;
      return item;
    }));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      for (const chart of this.charts) chart.rebuild();
    });
  }

  show(histories, snapshot) {
    const history = histories.get(this.span);
    if (!history) return;
    const { times, points } = grid(history, SECONDS[this.span], snapshot.time);
    this.range = [Math.min(times[0] ?? Infinity, snapshot.time - SHORTEST), snapshot.time];
    this.marks = history.marks.filter((mark) => MARKS[mark.kind] && mark.time >= this.range[0]);
    for (const chart of this.charts) chart.show(times, points, history.interval, snapshot);
  }
}

// The intervals of a history without gaps; those without a record are undefined.
function grid({ interval, points }, seconds, now) {
  const sorted = [...points.keys()].sort((a, b) => a - b);
  const last = sorted.at(-1);
  const begin = Math.max(sorted[0], now - seconds - interval, now - MOST * interval);
  const first = sorted.find((time) => time >= begin);
  const times = [];
  for (let time = first; time <= Math.max(last, now - 2 * interval); time += interval) times.push(time);
  return { times, points: times.map((time) => points.get(time)) };
}

class Chart {
  constructor(root, chart, curves) {
    Object.assign(this, chart);
    this.curves = curves;
    this.legend = make("ul", { className: "legend" });
    this.plot = make("div", { className: "plot" });
    this.tip = make("div", { className: "tip", hidden: true });
    this.heading = make("h3", { textContent: this.title });
    const unit = make("small", { textContent: this.unit });
    root.append(make("figure", { className: "card" },
      make("figcaption", {}, make("div", {}, this.heading, unit), this.legend), this.plot));
    this.plot.setAttribute("role", "img");
    new ResizeObserver(() => this.uplot?.setSize({ width: this.plot.clientWidth, height: HEIGHT }))
      .observe(this.plot);
  }

  show(times, points, interval, snapshot) {
    const now = snapshot.time;
    const used = this.series.filter((each) => each.name !== "accuracy" || points.some((p) => p?.accuracy != null));
    const columns = used.map((each) => points.map((point, index) =>
      each.show === rate && times[index] + interval > now ? null : each.of(point, interval)));
    const names = used.map((each) => each.name === "loss" ? snapshot.loss : each.name);
    this.data = [times, ...columns];
    this.points = points;
    if (this.used?.length !== used.length || !this.uplot) {
      this.used = used;
      this.rebuild();
    } else this.uplot.setData(this.data);
    this.names = names;
    if (this.title === "Loss") this.heading.textContent = names[0][0].toUpperCase() + names[0].slice(1);
    this.showLegend();
  }

  showLegend(index = null) {
    const values = this.used.map((_, which) => {
      const column = this.data[which + 1];
      return index === null ? column.findLast((value) => value !== null) : column[index];
    });
    const texts = values.map((value, which) => value == null ? "–" : this.used[which].show(value));
    this.legend.replaceChildren(...this.used.map((each, which) => {
      const item = make("li", {}, make("i"), `${this.names[which]} `, make("b", { textContent: texts[which] }));
      item.firstChild.style.borderTop = `2.5px ${each.dash ? "dashed" : "solid"} var(${each.colour})`;
      return item;
    }));
    if (index === null) {
      const said = texts.map((text, which) => `${this.names[which]} ${text}`).join(", ");
      this.plot.setAttribute("aria-label", `${this.heading.textContent}, ${this.unit}; newest: ${said}`);
    }
  }

  rebuild() {
    if (!this.data) return;
    this.uplot?.destroy();
    const axis = { stroke: css("--muted"), grid: { stroke: css("--line"), width: 1 },
      ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const y = (format, more) => ({ ...axis, size: 52, values: (_, all) => all.map(format), ...more });
    const axes = [{ ...axis, space: 70, grid: { show: false }, values: (_, times, __, ___, step) => axisTimes(times, step) },
      y(this.axis ?? ((value) => String(+value.toPrecision(3))))];
    if (this.used.some((each) => each.scale)) {
      axes.push(y((value) => `${+(value * 100).toPrecision(3)} %`, { scale: "share", side: 1, grid: { show: false } }));
    }
    const from0 = this.title !== "Loss";
    const options = {
      width: this.plot.clientWidth, height: HEIGHT, legend: { show: false }, axes,
      cursor: { sync: { key: "curves" }, y: false, drag: { x: false, y: false }, points: { size: 7 } },
      scales: { x: { range: () => this.curves.range },
        y: { range: (_, low, high) => bounds(low, high, from0) } },
      series: [{}, ...this.used.map((each) => ({
        stroke: css(each.colour), width: 2, dash: each.dash, scale: each.scale ?? "y", points: { size: 4, show: lone },
        fill: each.fill ? css(each.colour) + "22" : undefined }))],
      hooks: { draw: [(u) => this.drawMarks(u)], setCursor: [(u) => this.showTip(u)] },
    };
    this.uplot = new uPlot(options, this.data, this.plot);
    this.uplot.over.append(this.tip);
  }

  drawMarks(u) {
    const { ctx, bbox } = u;
    let free = -Infinity; // from where on the next sign has room
    ctx.save();
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.textAlign = "center";
    for (const mark of this.curves.marks) {
      const [sign, , colour] = MARKS[mark.kind];
      const x = Math.round(u.valToPos(mark.time, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.strokeStyle = ctx.fillStyle = css(colour);
      ctx.globalAlpha = 0.45;
      ctx.lineWidth = devicePixelRatio;
      ctx.setLineDash(mark.kind === "answers" ? [] : [3 * devicePixelRatio, 3 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top + 12 * devicePixelRatio);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      if (x < free) continue;
      ctx.globalAlpha = 1;
      ctx.fillText(sign, x, bbox.top + 9 * devicePixelRatio);
      free = x + 13 * devicePixelRatio;
    }
    ctx.restore();
  }

  showTip(u) {
    const { left, idx } = u.cursor;
    const over = left >= 0 && this.data[0].length > 0;
    this.showLegend(over ? idx : null);
    const near = over ? this.curves.marks.filter((mark) => Math.abs(u.valToPos(mark.time, "x") - left) < NEAR) : [];
    this.tip.hidden = !near.length || !u.over.matches(":hover");
    this.tip.replaceChildren(...near.slice(-5).map((mark) => {
      const [sign, name, colour] = MARKS[mark.kind];
      const line = make("p", {}, make("b", { textContent: `${sign} ` }), `${clock(mark.time)} ${mark.text || name}`);
      line.firstChild.style.color = `var(${colour})`;
      return line;
    }));
    this.tip.classList.toggle("left", left > u.over.clientWidth / 2);
    this.tip.style.translate = `${left}px 0`;
  }
}

// A dot where a value has no neighbour, which no line would show.
function lone(u, series, from, to) {
  const column = u.data[series];
  return column.slice(from, to + 1).filter((value) => value !== null).length < 2;
}

function bounds(low, high, from0) {
  if (low === null || low === undefined) return [0, 1];
  if (from0) return [0, high > 0 ? high * 1.15 : 1];
  const space = (high - low) * 0.15 || Math.abs(high) * 0.1 || 1;
  return [low >= 0 ? Math.max(0, low - space) : low - space, high + space];
}
