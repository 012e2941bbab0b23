// Everything that is a list: tiles, drift, alerts, invalid messages, what is missed, events.
import { MARKS, textOf } from "./curves.js";
import { clock, count, duration, figure, make, percent, rate, refill } from "./text.js";

const SHOWN_DRIFT = 14;
const SHOWN_EVENTS = 40;

const empty = (textContent) => make("p", { className: "empty", textContent });

const mean = ({ loss_of_mean: loss }) => loss === null ? "" : `; always the mean: ${figure(loss)}`;

export function showTiles(root, { flow, latency, outcome_delay: delay, training, models, champion, loss, started }) {
  const model = models.find((each) => each.model_id === champion);
  const [found] = Object.values(model?.figures ?? {});
  const late = delay.p50 === null ? (flow.outcomes ? "they come with their requests" : "none is known yet")
    : `half of them after ${duration(delay.p50)}` + (delay.never === null ? "" : `; ${percent(delay.never)} never come`);
  const tiles = [
    ["Requests", count(flow.requests), `${rate(flow.requests_per_second)} per second` + (started ? `; since ${clock(started)}` : "")],
    ["Unanswered", count(flow.unanswered), flow.unanswered ? `oldest ${duration(flow.oldest_unanswered)}` : "every request has its answer"],
    ["Latency in Kafka", duration(latency.p50), latency.p99 === null ? "not known yet" : `p99 ${duration(latency.p99)}, of the newest ${count(latency.answers)}`],
    [loss, figure(found), model ? `model ${champion}, its newest ${count(model.window)} outcomes` + mean(model) : "no model answers yet"],
    ["Requests with outcome", count(flow.observations), late],
    ["Trainings", count(training.completed + training.rejected + training.failed), `${count(training.completed)} promoted, ${count(training.rejected)} rejected, ${count(training.failed)} failed`],
  ];
  refill(root, tiles, () => tiles.map(([name, value, words]) => make("div", {},
    make("dt", { textContent: name }), make("dd", { className: "value", textContent: value }),
    make("dd", { textContent: words }))));
}

export function showDrift(root, { drift, models, champion }) {
  refill(root, { drift, champion }, () => {
    if (!drift.length) return empty(models.length
      ? "Nothing to compare yet: it takes some hundred requests, and a model whose card describes its data."
      : "Nothing to compare yet: there is no model.");
    const sorted = [...drift].sort((a, b) => b.value / b.threshold - a.value / a.threshold);
    const rest = sorted.slice(SHOWN_DRIFT);
    return [make("p", { className: "hint", textContent: `The newest values against those that model ${champion} was trained on. The line is the threshold that chance does not pass.` }),
      bars(sorted.slice(0, SHOWN_DRIFT)),
      rest.length ? make("details", {}, make("summary", { textContent: `${count(rest.length)} more` }), bars(rest)) : null,
    ].filter(Boolean);
  });
}

function bars(drift) {
  return make("ul", { className: "bars" }, ...drift.map((each) => {
    const ratio = each.threshold > 0 ? Math.max(each.value / each.threshold, 0) : each.drifted ? 2 : 0;
    const fill = make("i");
    fill.style.width = `${Math.min(ratio / 2, 1) * 100}%`;
    const state = each.drifted ? ` ◆ drifted${each.since ? ` since ${clock(each.since)}` : ""}` : "";
    return make("li", { className: each.drifted ? "drifted" : "", title: `over the newest ${count(each.rows)} rows` },
      make("span", { className: "name" }, each.name, make("em", { textContent: state })),
      make("span", { className: "track" }, fill),
      make("span", { className: "n", textContent: `${figure(each.value)} of ${figure(each.threshold)}` }));
  }));
}

export function showAlerts(root, alerts) {
  refill(root, alerts, () => alerts.length ? make("ul", { className: "alerts" }, ...alerts.map((alert) => {
    const active = alert.end === null;
    const times = active ? `since ${clock(alert.since)}` : `${clock(alert.since)} to ${clock(alert.end)}`;
    return make("li", { className: active ? "active" : "ended" },
      make("b", { textContent: active ? "! active" : "○ ended" }), make("span", { textContent: alert.text }),
      make("small", { textContent: `${alert.rule}, ${times}` }));
  })) : empty("No alert."));
}

export function showErrors(root, { errors, dead_letters: letters, error_replies: replies, unexpected_replies: unexpected }) {
  refill(root, { errors, letters, replies, unexpected }, () => {
    const reasons = Object.entries(errors).sort((a, b) => b[1] - a[1]);
    if (!letters && !unexpected && !reasons.length) return empty("None: every message could be understood.");
    const lines = reasons.map(([reason, number]) => make("li", {},
      make("span", { textContent: reason }), make("b", { textContent: count(number) })));
    const replied = `${count(letters)} dead letters, ${count(replies)} error replies`;
    const forged = unexpected ? `; ${count(unexpected)} unexpected replies, forged perhaps` : "";
    return [make("p", { className: "hint", textContent: replied + forged }), make("ul", { className: "counts" }, ...lines)];
  });
}

export function showNotes(root, { behind, notes }) {
  refill(root, { behind: Math.round(behind ?? 0), notes }, (data) => {
    const lines = [...notes];
    if (data.behind > 2) lines.unshift(`The monitor is ${duration(data.behind)} behind the newest records.`);
    return lines.length ? make("ul", { className: "notes" }, ...lines.map((textContent) => make("li", { textContent })))
      : empty("Nothing: every record has been read.");
  });
}

export function showEvents(root, marks) {
  const newest = marks.slice(-SHOWN_EVENTS).reverse();
  refill(root, newest, () => newest.length ? make("ol", {}, ...newest.map((mark) => {
    const [sign, , colour] = MARKS[mark.kind] ?? ["·", "", "--muted"];
    const icon = make("b", { textContent: sign, ariaHidden: "true" });
    icon.style.color = `var(${colour})`;
    return make("li", {}, make("time", { textContent: clock(mark.time) }), icon,
      make("span", { textContent: textOf(mark) }));
  })) : empty("No event yet: trainings, new models, drift and alerts appear here."));
}
