// The table of the models.
import { clock, count, figure, make, makeSvg, nameOf, percent, refill } from "./text.js";

const SIGNS = { __proto__: null, champion: "★", training: "◌", rejected: "×", former: "·", unknown: "?" };
const SIZE = 52; // of a calibration's picture, in pixels
const SHOWN = { phone: 3, other: 8 }; // models; the rest can be unfolded

export function showModels(root, { models, champion }) {
  refill(root, { models, champion }, () => {
    if (!models.length) return make("p", { className: "empty", textContent:
      "No model is known yet: initialize.py makes the first one, and the trainer the others." });
    const known = models.some((model) => model.window);
    const hint = "Figures are those of each model's newest answers whose outcome is known"
      + (known ? "." : "; none is yet.");
    return [make("p", { className: "hint", textContent: hint }), ...tables(models)];
  });
}

function tables(models) {
  const first = SHOWN[matchMedia("(max-width: 760px)").matches ? "phone" : "other"];
  const older = models.slice(first);
  if (!older.length) return [table(models)];
  const summary = make("summary", { textContent: `Older models: ${count(older.length)}` });
  return [table(models.slice(0, first)), make("details", {}, summary, table(older))];
}

function table(models) {
  const names = [...new Set(models.flatMap((model) => Object.keys(model.figures)))];
  const numbers = ["trained on, rows", "answers", "outcomes", ...names];
  const head = make("tr", {}, ...["model", "role", "made"].map((name) => make("th", { scope: "col", textContent: name })),
    ...numbers.map((name) => make("th", { scope: "col", className: "n", textContent: nameOf(name) })),
    make("th", { scope: "col", textContent: "calibration" }));
  return make("table", { className: "models" }, make("thead", {}, head),
    make("tbody", {}, ...models.map((model) => row(model, names))));
}

function row(model, names) {
  const role = make("span", { className: "role", data: { role: model.role },
    textContent: `${SIGNS[model.role] ?? "?"} ${model.role}` });
  const why = model.why ? make("span", { className: "why", textContent: model.why, title: model.why }) : null;
  const over = model.window ? `over its newest ${count(model.window)} outcomes` : "";
  return make("tr", { data: { model: model.model_id } },
    make("th", { scope: "row", textContent: model.model_id }),
    cell("role", make("div", {}, role, why)),
    cell("made", model.created ? clock(Date.parse(model.created) / 1000) : "–"),
    number("trained on, rows", model.rows ? count(model.rows) : "–"),
    number("answers", count(model.answers)),
    number("outcomes", count(model.outcomes)),
    ...names.map((name) => number(nameOf(name), value(name, model.figures[name]), over)),
    cell("calibration", calibration(model)));
}

const value = (name, found) => name === "accuracy" && found !== undefined ? percent(found) : figure(found);
const cell = (label, content) => make("td", { data: { label } }, content);
const number = (label, textContent, title = "") => make("td", { className: "n", data: { label }, textContent, title });

// Predicted against real: dots on the diagonal are right; a larger dot has more rows.
function calibration({ calibration: bins, model_id }) {
  if (!bins.length) return "–";
  const all = bins.flatMap((bin) => [bin.prediction, bin.outcome]);
  const low = Math.min(0, ...all), high = Math.max(bins.some((bin) => bin.prediction > 1) ? 0 : 1, ...all);
  const most = Math.max(...bins.map((bin) => bin.rows));
  const place = (value) => 3 + (value - low) / (high - low || 1) * (SIZE - 6);
  const svg = makeSvg("svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, width: SIZE, height: SIZE, role: "img", class: "calibration" });
  const title = svg.appendChild(makeSvg("title"));
  title.textContent = `Calibration of model ${model_id}: ` + bins.map((bin) =>
    `predicted ${figure(bin.prediction)}, really ${figure(bin.outcome)} (${count(bin.rows)} rows)`).join("; ");
  svg.append(makeSvg("path", { d: `M3 ${SIZE - 3}L${SIZE - 3} 3` }), ...bins.map((bin) => makeSvg("circle", {
    cx: place(bin.prediction), cy: SIZE - place(bin.outcome), r: 1.5 + 2.2 * Math.sqrt(bin.rows / most) })));
  return svg;
}
