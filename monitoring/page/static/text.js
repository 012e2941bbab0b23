// How numbers and times look, and how elements are made: all text goes through textContent.

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "data") Object.assign(element.dataset, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

export function makeSvg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Fill an element anew, but only if its data differ from those of the last call.
const shown = new WeakMap();

export function refill(element, data, build) {
  const key = JSON.stringify(data);
  if (shown.get(element) === key) return;
  shown.set(element, key);
  element.replaceChildren(...[build(data)].flat());
}

const digits = [0, 1, 2, 3, 4].map((count) => new Intl.NumberFormat("en", {
  minimumFractionDigits: count, maximumFractionDigits: count }));

export function count(value) {
  return digits[0].format(value ?? 0);
}

export function figure(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  return digits[size < 10 ? 4 : size < 1000 ? 1 : 0].format(value);
}

export function rate(value) {
  return digits[value < 100 && value > 0 ? 1 : 0].format(value);
}

export function percent(share) {
  return share === null || share === undefined ? "–" : `${digits[1].format(share * 100)}\u00a0%`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${digits[0].format(seconds * 1000)}\u00a0ms`;
  if (seconds < 10) return `${digits[1].format(seconds)}\u00a0s`;
  if (seconds < 120) return `${digits[0].format(seconds)}\u00a0s`;
  if (seconds < 7200) return `${digits[0].format(seconds / 60)}\u00a0min`;
  if (seconds < 172800) return `${digits[0].format(seconds / 3600)}\u00a0h`;
  return `${digits[0].format(seconds / 86400)}\u00a0days`;
}

const NAMES = { auc: "AUC", logloss: "log loss", r2: "R²" };

// How a figure is called: "calibration_error" -> "calibration error"
export function nameOf(figure) {
  return Object.hasOwn(NAMES, figure) ? NAMES[figure] : figure.replaceAll("_", " ");
}

const time = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const short = new Intl.DateTimeFormat("en-GB", { timeStyle: "short" });

// seconds since 1970 -> "14:03:21", or "3 Nov 14:03" if that was not today
export function clock(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const date = new Date(seconds * 1000);
  const today = date.toDateString() === new Date().toDateString();
  return today ? time.format(date) : `${day.format(date)} ${short.format(date)}`;
}

export function axisTimes(times, step) {
  const format = step >= 86400 ? day : step >= 60 ? short : time;
  return times.map((each) => format.format(new Date(each * 1000)));
}
