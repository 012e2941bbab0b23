// Follows the monitor's events and shows them. The parts of the page are in the other files.
import { Curves } from "./curves.js";
import { Picture } from "./picture.js";
import { showModels } from "./models.js";
import { showAlerts, showDrift, showErrors, showEvents, showNotes, showTiles } from "./lists.js";
import { clock, duration } from "./text.js";

const STALE = 5000; // milliseconds without news after which the figures are marked as old
const SILENT = 30000; // after which a new connection replaces the old one, which may be half-open
const RETRY = 5000; // between two attempts of ours; the browser has its own
const SIGNS = { good: "✓", warning: "!", bad: "✕", waiting: "…" };

const byId = (id) => document.getElementById(id);
const histories = new Map(); // span -> {interval, points: Map of time -> point, marks}
const curves = new Curves(byId("curves"), byId("key"));
const picture = new Picture(byId("picture"));
let stream, snapshot, headline, heard = performance.now(), tried = heard, level, isCut, isQueued;

function connect() {
  stream?.close();
  stream = new EventSource("events");
  stream.onerror = () => {
    isCut = true;
    showConnection();
  };
  stream.onmessage = (event) => {
    isCut = false;
    take(JSON.parse(event.data));
  };
}

function take(news) {
  if (news.complete) histories.clear(); // another monitor, or a first connection
  for (const [span, changes] of Object.entries(news.histories)) update(span, changes);
  if (news.snapshot.time !== snapshot?.time) heard = performance.now(); // a monitor may hang
  snapshot = news.snapshot;
  document.body.dataset.updates = Number(document.body.dataset.updates ?? 0) + 1;
  headline = news.headline;
  showConnection();
  if (!isQueued) requestAnimationFrame(show); // a hidden tab draws nothing until it is shown
  isQueued = true;
}

function update(span, { interval, first, points, marks }) {
  let history = histories.get(span);
  if (history?.interval !== interval) {
    history = { interval, points: new Map(), marks: history?.marks ?? [] };
    histories.set(span, history);
  }
  for (const time of history.points.keys()) if (first === null || time < first) history.points.delete(time);
  for (const point of points) history.points.set(point.time, point);
  history.marks = marks ?? history.marks;
}

function show() {
  isQueued = false;
  byId("dataset").textContent = snapshot.dataset;
  showTiles(byId("tiles"), snapshot);
  picture.show(snapshot);
  curves.show(histories, snapshot);
  showModels(byId("models"), snapshot);
  showDrift(byId("drift"), snapshot);
  showAlerts(byId("alerts"), snapshot.alerts);
  showErrors(byId("errors"), snapshot.flow);
  showNotes(byId("notes"), snapshot.following);
  showEvents(byId("events"), snapshot.marks);
}

function showHeadline(stale) {
  const { level: now, text } = stale ? { level: "stale",
    text: `No news from the monitor since ${clock(snapshot.time)}. Before: ${headline.text}` } : headline;
  byId("headline").dataset.level = now;
  byId("sign").textContent = SIGNS[now] ?? "?";
  byId("sentence").textContent = text;
  document.title = `${SIGNS[now] ?? "?"} ${text}`.slice(0, 80);
  if (now !== level) byId("announcement").textContent = text; // read aloud: changes only
  level = now;
}

function showConnection() {
  const silence = performance.now() - heard;
  const stale = isCut || silence > STALE || !snapshot;
  document.body.classList.toggle("stale", stale);
  byId("connection").textContent = !snapshot ? "connecting"
    : stale ? `no news for ${duration(silence / 1000)}` : `live, ${clock(snapshot.time)}`;
  if (snapshot) showHeadline(stale);
  const isLost = silence > SILENT || stream.readyState === EventSource.CLOSED;
  if (isLost && performance.now() - tried > RETRY) {
    tried = performance.now();
    connect();
  }
}

byId("spans").addEventListener("click", ({ target }) => {
  if (!target.dataset.span) return;
  for (const button of byId("spans").children) {
    button.setAttribute("aria-pressed", String(button === target));
  }
  curves.span = target.dataset.span;
  if (snapshot) curves.show(histories, snapshot);
});

connect();
setInterval(showConnection, 1000);
