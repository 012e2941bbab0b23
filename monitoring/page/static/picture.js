// The pipeline as a picture: programs, topics, and live numbers on the arrows between them.
import { count, duration, makeSvg, rate } from "./text.js";

// Boxes as [x, y, width, height]; arrows as points, and where their label is: [x, y, anchor].
const WIDE = {
  size: [1000, 372],
  boxes: {
    company: [10, 20, 130, 332], app_messages: [330, 20, 140, 120], predictor: [650, 20, 140, 120],
    dead_letter_topic: [846, 50, 148, 60], outcomes_topic: [330, 292, 140, 60],
    retrain_topic: [650, 196, 140, 44], trainer: [650, 292, 140, 60],
  },
  arrows: {
    requests: [[[140, 55], [330, 55]], [235, 45, "middle"]],
    waiting: [[[470, 55], [650, 55]], [560, 45, "middle"]],
    predictions: [[[650, 110], [470, 110]], [560, 130, "middle"]],
    replies: [[[330, 110], [140, 110]], [235, 130, "middle"]],
    letters: [[[790, 80], [846, 80]], [920, 130, "middle"]],
    outcomes: [[[140, 322], [330, 322]], [235, 312, "middle"]],
    observations: [[[470, 322], [650, 322]], [560, 312, "middle"]],
    asked: [[[690, 140], [690, 196]], [678, 173, "end"]],
    due: [[[690, 240], [690, 292]], null],
    announced: [[[750, 292], [750, 240]], null],
    model: [[[750, 196], [750, 140]], [762, 173, "start"]],
  },
};
const NARROW = {
  size: [360, 560],
  boxes: {
    company: [5, 5, 350, 50], app_messages: [125, 135, 130, 50], predictor: [125, 270, 130, 50],
    dead_letter_topic: [276, 270, 80, 50], outcomes_topic: [5, 387, 92, 50],
    retrain_topic: [125, 390, 130, 44], trainer: [5, 505, 250, 50],
  },
  arrows: {
    requests: [[[150, 55], [150, 135]], [142, 92, "end"]],
    waiting: [[[150, 185], [150, 270]], [142, 225, "end"]],
    predictions: [[[230, 270], [230, 185]], [238, 212, "start"]],
    replies: [[[230, 135], [230, 55]], [238, 92, "start"]],
    letters: [[[255, 295], [276, 295]], [316, 245, "middle"]],
    outcomes: [[[30, 55], [30, 387]], [38, 290, "start"]],
    observations: [[[30, 437], [30, 505]], [38, 467, "start"]],
    asked: [[[150, 320], [150, 390]], [142, 350, "end"]],
    due: [[[150, 434], [150, 505]], null],
    announced: [[[230, 505], [230, 434]], null],
    model: [[[230, 390], [230, 320]], [238, 350, "start"]],
  },
};
const TOPICS = /app_messages|_topic$/;
const ROLES = { company: "sends, acts on answers", predictor: "answers", trainer: "learns" };

// Per arrow: [number, words, whether something flows now].
function labels({ flow, champion, training }) {
  const { requests_per_second: asked, replies_per_second: replied, outcomes_per_second: known } = flow;
  const oldest = flow.unanswered && flow.oldest_unanswered !== null
    ? `wait, oldest ${duration(flow.oldest_unanswered)}` : "wait for an answer";
  return {
    requests: [rate(asked), "requests/s", asked > 0],
    waiting: [count(flow.unanswered), oldest, asked > 0],
    predictions: [count(flow.predictions), "predictions", replied > 0],
    replies: [rate(replied), "replies/s", replied > 0],
    letters: [count(flow.dead_letters), "invalid", false],
    outcomes: [rate(known), "outcomes/s", known > 0],
    observations: [count(flow.observations), "observations", known > 0],
    asked: [count(flow.retrain_requests), "retrain requests", false],
    due: ["", "", false],
    announced: ["", "", false],
    model: [champion === null ? "no model" : `model ${champion}`,
      `${count(training.completed)} trained`, false],
  };
}

export class Picture {
  constructor(root) {
    this.root = root;
    new ResizeObserver(() => this.draw()).observe(root);
  }

  draw() {
    const layout = this.root.clientWidth < 680 ? NARROW : WIDE;
    if (layout === this.layout) return;
    this.layout = layout;
    const svg = makeSvg("svg", { viewBox: `0 0 ${layout.size.join(" ")}`, role: "img" });
    svg.classList.toggle("narrow", layout === NARROW);
    this.title = svg.appendChild(makeSvg("title"));
    svg.append(makeSvg("defs", {}, makeSvg("marker", { id: "head", viewBox: "0 0 10 10", refX: 9,
      refY: 5, markerWidth: 7, markerHeight: 7, orient: "auto" }, makeSvg("path", { d: "M0 0L10 5L0 10z" }))));
    this.arrows = {};
    for (const [name, arrow] of Object.entries(layout.arrows)) this.addArrow(svg, name, arrow);
    for (const [name, box] of Object.entries(layout.boxes)) addBox(svg, name, box);
    this.root.replaceChildren(svg);
    if (this.snapshot) this.show(this.snapshot);
  }

  addArrow(svg, name, [points, place]) {
    const d = points.map((point, index) => `${index ? "L" : "M"}${point.join(" ")}`).join("");
    const group = svg.appendChild(makeSvg("g", { class: "arrow", "data-arrow": name }));
    group.append(makeSvg("path", { d, class: "line", "marker-end": "url(#head)" }));
    group.append(makeSvg("path", { d, class: "flow" }));
    if (!place) return;
    const [x, y, anchor] = place;
    const number = makeSvg("tspan", { class: "number" });
    const words = makeSvg("tspan", { class: "words" });
    if (svg.classList.contains("narrow")) for (const [part, dy] of [[number, 0], [words, 15]]) {
      part.setAttribute("x", x);
      part.setAttribute("dy", dy);
    } else words.setAttribute("dx", 5);
    group.append(makeSvg("text", { x, y, "text-anchor": anchor }, number, words));
    this.arrows[name] = { group, number, words };
  }

  show(snapshot) {
    this.snapshot = snapshot;
    if (!this.layout) return;
    const found = labels(snapshot);
    for (const [name, { group, number, words }] of Object.entries(this.arrows)) {
      [number.textContent, words.textContent] = found[name];
      group.classList.toggle("flows", found[name][2]);
    }
    const { unanswered, oldest_unanswered: oldest, dead_letters: dead } = snapshot.flow;
    this.arrows.waiting.group.classList.toggle("bad", unanswered > 0 && oldest > 10);
    this.arrows.letters.group.classList.toggle("warning", dead > 0);
    this.title.textContent = "The pipeline: " + Object.keys(this.arrows)
      .map((name) => `${found[name][0]} ${found[name][1]}`).join(", ");
  }
}

function addBox(svg, name, [x, y, width, height]) {
  const kind = TOPICS.test(name) ? "topic" : "program";
  const group = svg.appendChild(makeSvg("g", { class: kind }));
  group.append(makeSvg("rect", { x, y, width, height, rx: kind === "topic" ? (width < 100 ? 28 : Math.min(height, 44)) / 2 : 8 }));
  const [left, middle] = [x + width / 2, y + height / 2];
  const role = height > 70 || width > 240 ? ROLES[name] : undefined;
  const lines = role ? [name, ...(width < 200 ? role.split(/, /) : [role])]
    : width < 100 ? name.split(/(?=_topic)/) : [name];
  lines.forEach((line, index) => {
    const text = makeSvg("text", { x: left, y: middle + 4.5 + (index - (lines.length - 1) / 2) * 17,
      "text-anchor": "middle", class: index && role ? "role" : "name" });
    text.textContent = line;
    group.append(text);
  });
}
