// The curves, with events as vertical lines. uPlot (uplot.js) draws them.
import { axisTimes, clock, count, duration, figure, make, percent, rate } from "./text.js";

const SECONDS = { hour: 3600, day: 86400, all: Infinity };
const SHORT = 5; // seconds of an interval that tell no rate
const SHORTEST = 120; // seconds that the time axis shows at least
const MOST = 5000; // intervals
const HEIGHT = 180;
const NEAR = 7; // pixels from a mark at which its text is shown

// The kinds of marks that have a line: [sign, name, variable of its colour].
export const MARKS = {
  __proto__: null,
  answers: ["▲", "new model answers", "--accent"],
  promoted: ["★", "promoted", "--good"],
  rejected: ["×", "rejected", "--muted"],
  failed: ["✕", "training failed", "--bad"],
  drift: ["◆", "drift", "--warning"],
  alert: ["!", "alert", "--bad"],
  end: ["○", "alert ended", "--good"],
  missed: ["?", "records missed", "--warning"],
};

const NAMED = new Set(["promoted", "rejected", "failed"]); // whose text does not name the model

export function textOf({ kind, model_id, text }) {
  const [, name] = MARKS[kind] ?? [];
  if (!NAMED.has(kind)) return text || name || kind;
  const model = model_id === null ? "" : `model ${model_id} `;
  return `${model}${name}${text ? `: ${text}` : ""}`;
}

// Each chart: what `of` takes from a point and the seconds that its interval has lasted.
// `from0`: the axis begins with 0; `whole`: its values are whole numbers.
const FIRST_REQUEST = "begins with the first request";
const FIRST_OUTCOME = "begins with the first outcome";
const short = (value) => count(value).length > 6 ? `${+(value / 1e3).toPrecision(3)}k` : String(+value.toPrecision(3));
const WHOLE = [...Array(12).keys()].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power));
const perSecond = (number, seconds) => seconds < SHORT ? null : (number || 0) / seconds;
const CHARTS = [
  { title: "Loss", unit: "by the time of the request", nothing: FIRST_OUTCOME, axis: short, series: [
    { name: "loss", colour: "--accent", show: figure, of: (point) => point?.loss ?? null }] },
  { title: "Accuracy", unit: "by the time of the request", nothing: FIRST_OUTCOME,
    axis: (value) => `${+(value * 100).toPrecision(3)} %`, series: [
      { name: "accuracy", colour: "--accent", show: percent, of: (point) => point?.accuracy ?? null }] },
  { title: "Latency", unit: "request to reply", nothing: FIRST_REQUEST, axis: duration, from0: true, series: [
    { name: "p99", colour: "--second", dash: [5, 3], show: duration, of: (point) => point?.p99 ?? null },
    { name: "p50", colour: "--accent", show: duration, of: (point) => point?.p50 ?? null }] },
  { title: "Requests", unit: "per second", nothing: FIRST_REQUEST, axis: short, from0: true, series: [
    { name: "requests", colour: "--accent", fill: true, show: rate, of: (point, seconds) => perSecond(point?.requests, seconds) }] },
  { title: "Unanswered", unit: "now, by the time of the request", nothing: FIRST_REQUEST, axis: short, from0: true, whole: true, series: [
    { name: "unanswered", colour: "--bad", fill: true, show: count, of: (point) => point?.unanswered ?? 0 }] },
  { title: "Errors", unit: "error replies per minute", nothing: FIRST_REQUEST, axis: short, from0: true, series: [
    { name: "errors", colour: "--bad", fill: true, show: rate, of: (point, seconds) => perSecond(point?.errors * 60, seconds) }] },
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
    const [loss, accuracy] = this.charts;
    const isNumber = points.some((point) => point?.loss != null) && !points.some((point) => point?.accuracy != null);
    accuracy.root.hidden = isNumber;
    loss.root.classList.toggle("wide", isNumber);
    loss.rename(snapshot.loss);
    const lasted = times.map((time) =>
      Math.min(time + history.interval, snapshot.time) - Math.max(time, snapshot.started ?? 0));
    for (const chart of this.charts) chart.show(times, points, lasted);
  }
}

// The intervals of a history without gaps; those without a record are undefined.
function grid({ interval, points }, seconds, now) {
  const sorted = [...points.keys()].sort((a, b) => a - b);
  const begin = Math.max(now - seconds - interval, now - MOST * interval);
  const first = sorted.find((time) => time >= begin);
  const times = [];
  const last = Math.min(Math.max(sorted.at(-1), now - 2 * interval), now);
  for (let time = first; time <= last; time += interval) times.push(time);
  return { times, points: times.map((time) => points.get(time)) };
}

class Chart {
  constructor(parent, chart, curves) {
    Object.assign(this, chart);
    this.curves = curves;
    this.legend = make("ul", { className: "legend" });
    this.plot = make("div", { className: "plot nothing", data: { nothing: this.nothing } });
    this.plot.setAttribute("role", "img");
    this.tip = make("div", { className: "tip", hidden: true });
    this.heading = make("h3", { textContent: this.title });
    const unit = make("small", { textContent: this.unit });
    this.root = make("figure", { className: "card", data: { chart: this.title } },
      make("figcaption", {}, make("div", {}, this.heading, unit), this.legend), this.plot);
    parent.append(this.root);
    new ResizeObserver(() => this.plot.clientWidth
      && this.uplot?.setSize({ width: this.plot.clientWidth, height: HEIGHT })).observe(this.plot);
  }

  rename(name) {
    this.series[0].name = name;
    this.heading.textContent = name.slice(0, 1).toUpperCase() + name.slice(1);
  }

  show(times, points, lasted) {
    this.data = [times, ...this.series.map(({ of }) =>
      points.map((point, index) => of(point, lasted[index])))];
    const isEmpty = this.data.slice(1).flat().every((value) => value === null);
    this.plot.classList.toggle("nothing", isEmpty);
    this.root.dataset.points = points.filter(Boolean).length;
    if (this.uplot) this.uplot.setData(this.data);
    else this.rebuild();
    this.showLegend();
  }

  showLegend(index = null) {
    const texts = this.series.map((each, which) => {
      const column = this.data[which + 1];
      const value = index === null ? column.findLast((found) => found !== null) : column[index];
      return value == null ? "–" : each.show(value);
    });
    this.legend.replaceChildren(...this.series.map((each, which) => {
      const line = make("i");
      line.style.borderTop = `2.5px ${each.dash ? "dashed" : "solid"} var(${each.colour})`;
      return make("li", {}, line, this.series.length > 1 ? `${each.name} ` : "", make("b", { textContent: texts[which] }));
    }));
    if (index !== null) return;
    const said = texts.map((text, which) => `${this.series[which].name} ${text}`).join(", ");
    this.plot.setAttribute("aria-label", `${this.heading.textContent}, ${this.unit}; newest: ${said}`);
  }

  rebuild() {
    if (!this.data) return;
    this.uplot?.destroy();
    const axis = { stroke: css("--muted"), ticks: { show: false }, font: "11px system-ui, sans-serif" };
    this.uplot = new uPlot({
      width: this.plot.clientWidth, height: HEIGHT, legend: { show: false }, padding: [4, 12, 0, 0],
      axes: [
        { ...axis, space: 70, size: 26, gap: 6, grid: { show: false }, values: (_, times, __, ___, step) => axisTimes(times, step) },
        { ...axis, size: 50, space: 34, incrs: this.whole ? WHOLE : undefined, grid: { stroke: css("--line"), width: 1 }, values: (_, values) => values.map(this.axis) }],
      cursor: { sync: { key: "curves" }, y: false, drag: { x: false, y: false }, points: { size: 7 } },
      scales: { x: { range: () => this.curves.range }, y: { range: (_, low, high) => bounds(low, high, this.from0) } },
      series: [{}, ...this.series.map((each) => ({
        stroke: css(each.colour), width: 1.6, dash: each.dash, points: { size: 5, show: isLone },
        fill: each.fill ? css(each.colour) + "22" : undefined }))],
      hooks: { draw: [(u) => this.drawMarks(u)], setCursor: [(u) => this.showTip(u)] },
    }, this.data, this.plot);
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
      ctx.globalAlpha = 0.5;
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
      const [sign, , colour] = MARKS[mark.kind];
      const line = make("p", {}, make("b", { textContent: `${sign} ` }), `${clock(mark.time)} ${textOf(mark)}`);
      line.firstChild.style.color = `var(${colour})`;
      return line;
    }));
    const width = this.tip.offsetWidth;
    const place = left + 12 + width > u.over.clientWidth ? Math.max(left - 12 - width, 0) : left + 12;
    this.tip.style.left = `${place}px`;
  }
}

// Whether there is one value only, which no line would show.
function isLone(u, series) {
  return u.data[series].filter((value) => value !== null).length === 1;
}

function bounds(low, high, from0) {
  if (low === null || low === undefined) return [0, 1];
  if (from0) return [0, high > 0 ? high * 1.15 : 1];
  const space = (high - low) * 0.15 || Math.abs(high) * 0.1 || 1;
  return [low >= 0 ? Math.max(0, low - space) : low - space, high + space];
}
