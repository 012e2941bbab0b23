// The page of the shop. It reports what the visitor does, and changes its layout when the
// prediction for the item on the screen arrives. All texts are set as text, never as HTML.

const RETRIES = 5;
const main = document.getElementById("main");
const byId = (id) => document.getElementById(id);
const euro = (number) => `€ ${number.toFixed(2)}`;

let items = [];
let shown = null; // the item on the screen
let view = null; // the name of this look at it
let clickedAt = 0;

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text) made.textContent = text;
  return made;
}

function paint(picture, item) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `/page/icons.svg#${item.category}`);
  svg.append(use);
  const hue = (items.indexOf(item) * 47) % 360;
  picture.style.background = `linear-gradient(135deg, hsl(${hue} 42% 88%), hsl(${(hue + 40) % 360} 45% 76%))`;
  picture.replaceChildren(svg);
}

function card(item) {
  const made = element("button", "card");
  made.dataset.item = item.item;
  const picture = element("div", "picture");
  paint(picture, item);
  const row = element("div", "row");
  row.append(element("span", "", item.name), element("span", "", euro(item.price * (1 - item.discount))));
  made.append(picture, row);
  if (item.discount) made.append(element("span", "badge", `−${Math.round(item.discount * 100)} %`));
  made.addEventListener("click", () => look(item));
  return made;
}

function fill(grid, chosen) {
  byId(grid).replaceChildren(...chosen.map(card));
}

// Events are reported one after the other. One that the shop could not store is reported again: the
// same view counts once.
let reported = Promise.resolve();

function report(event) {
  reported = reported.then(() => send(event, RETRIES));
}

async function send(event, retries) {
  const headers = { "Content-Type": "application/json" };
  try {
    const options = { method: "POST", headers, body: JSON.stringify(event), keepalive: true };
    const { ok, status } = await fetch("/events", options);
    byId("notice").hidden ||= ok;
    if (ok || ![429, 503].includes(status)) return;
  } catch {
    // The shop is away; below.
  }
  if (!retries) {
    byId("notice").textContent = "The shop does not answer at the moment. Please try again.";
    byId("notice").hidden = false;
    return;
  }
  await new Promise((resolve) => setTimeout(resolve, 1000));
  await send(event, retries - 1);
}

function look(item) {
  clickedAt = performance.now();
  shown = item;
  view = crypto.randomUUID();
  report({ kind: "viewed", view, item: item.item });
  byId("name").textContent = item.name;
  byId("category").textContent = item.category;
  const price = [euro(item.price * (1 - item.discount))];
  if (item.discount) price.unshift(element("del", "", euro(item.price)));
  byId("price").replaceChildren(...price);
  paint(byId("picture"), item);
  for (const button of main.querySelectorAll("[data-reaction]")) {
    button.disabled = false;
    button.classList.remove("done");
  }
  byId("why").textContent = "";
  delete main.dataset.milliseconds;
  arrange("plain");
  main.hidden = false;
  scrollTo(0, 0);
}

function react(button) {
  const reaction = button.dataset.reaction;
  report({ kind: "reacted", view, reaction });
  button.disabled = true;
  button.classList.add("done");
  if (reaction !== "liked") byId("basket").textContent = Number(byId("basket").textContent) + 1;
}

function arrange(layout) {
  const similar = items.filter((each) => each.category === shown.category && each !== shown);
  const reduced = items.filter((each) => each.discount && each.category !== shown.category);
  const others = { plain: similar, buy: [], gallery: similar, discover: reduced.slice(0, 5) };
  const titles = { plain: `More ${shown.category}`, buy: "", gallery: "You may like these, too", discover: "On sale" };
  fill("others", others[layout]);
  byId("others-title").textContent = titles[layout];
  main.dataset.layout = layout;
  main.dataset.view = view;
}

function follow(message) {
  // Of an item that is not on the screen any more, or the last one again in a new stream.
  if (message.view !== view || main.dataset.milliseconds) return;
  arrange(message.layout);
  requestAnimationFrame(() => requestAnimationFrame(() => {
    if (message.view !== view) return; // another item was opened meanwhile
    const milliseconds = performance.now() - clickedAt;
    const chances = Object.entries(message.chances).map(([name, p]) => `${name} ${Math.round(p * 100)} %`);
    byId("why").textContent = `Model ${message.model}: ${chances.join(", ")}; ${milliseconds.toFixed(0)} ms after the click`;
    main.dataset.milliseconds = milliseconds;
  }));
}

function device() {
  return innerWidth < 600 ? "phone" : innerWidth < 1000 ? "tablet" : "desktop";
}

function source() {
  const named = new URLSearchParams(location.search).get("source");
  return ["search", "mail", "ad"].includes(named) ? named : "direct";
}

for (const button of main.querySelectorAll("[data-reaction]")) {
  button.addEventListener("click", () => react(button));
}
byId("remind").addEventListener("submit", (event) => {
  event.preventDefault();
  report({ kind: "subscribed", email: byId("email").value });
  byId("remind").replaceChildren("Thank you.");
});
addEventListener("pagehide", () => send({ kind: "left" }, 0));
new EventSource("/stream").addEventListener("message", (event) => follow(JSON.parse(event.data)));
report({ kind: "arrived", device: device(), source: source() });
items = await (await fetch("/items")).json();
for (const category of new Set(items.map((each) => each.category))) {
  const button = element("button", "", category);
  button.addEventListener("click", () => {
    main.hidden = true;
    main.dataset.layout = "plain";
    byId("all-title").textContent = category;
    fill("all", items.filter((each) => each.category === category));
  });
  byId("categories").append(button);
}
fill("all", items);
document.body.dataset.ready = "yes";
