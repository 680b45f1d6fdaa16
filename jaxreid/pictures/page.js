
"use strict";
const $ = (id) => document.getElementById(id);
const cards = [...document.querySelectorAll(".card")];
const photos = [...document.querySelectorAll(".photo")];
const dialog = $("large");
const SVG = "http://www.w3.org/2000/svg";
const RAMP = [[255, 243, 150], [255, 150, 40], [205, 15, 85]];
let shown = null;
let matches = true;
let enlarged = null;

function colour(share) {
  const at = Math.min(0.9999, Math.max(0, share)) * 2;
  const [from, to] = [RAMP[Math.floor(at)], RAMP[Math.floor(at) + 1]];
  const part = from.map((value, i) => Math.round(value + (to[i] - value) * (at % 1)));
  return `rgb(${part.join(",")})`;
}

function element(svg, name, values) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(values)) made.setAttribute(key, value);
  svg.append(made);
}

/* Lines between two images; x and y are fractions of each. */
function draw(svg, left, right, links) {
  svg.replaceChildren();
  if (!matches) return;
  const origin = svg.getBoundingClientRect();
  const [a, b] = [left.getBoundingClientRect(), right.getBoundingClientRect()];
  for (const [x1, y1, x2, y2, share] of [...links].reverse()) {
    const ends = {
      x1: a.left + a.width * x1 - origin.left, y1: a.top + a.height * y1 - origin.top,
      x2: b.left + b.width * x2 - origin.left, y2: b.top + b.height * y2 - origin.top,
    };
    const width = 1.5 + 2.5 * share;
    element(svg, "line", { ...ends, class: "under", "stroke-width": width + 1.5 });
    element(svg, "line", { ...ends, stroke: colour(share), "stroke-width": width });
    for (const [cx, cy] of [[ends.x1, ends.y1], [ends.x2, ends.y2]])
      element(svg, "circle", { cx, cy, r: width / 2 + 2.5, fill: colour(share), stroke: "rgb(0 0 0 / 0.55)" });
  }
}

const linksOf = (card) => JSON.parse(card.dataset.links);

function show(card) {
  shown = card;
  if (!card) { $("lines").replaceChildren(); return; }
  draw($("lines"), photos[card.dataset.photo], card.querySelector("img"), linksOf(card));
}

function redraw() {
  show(shown);
  if (dialog.open) draw($("pairlines"), $("left"), $("right"), linksOf(enlarged));
}

function enlarge(card) {
  enlarged = card;
  $("left").src = photos[card.dataset.photo].src;
  $("name").textContent = photos[card.dataset.photo].parentElement.textContent;
  $("right").src = card.querySelector("img").src;
  const parts = [...card.querySelectorAll(".rank, .sure strong, .where, .name")];
  $("about").textContent = parts.map((part, i) => (i ? "" : "rank ") + part.textContent.trim()).join(" · ");
  show(null);
  if (!dialog.open) dialog.showModal();
  Promise.all([$("left").decode(), $("right").decode()]).finally(redraw);
}

function move(card, step) {
  const next = cards[cards.indexOf(card) + step];
  if (!next) return card;
  for (const other of cards) other.tabIndex = other === next ? 0 : -1;
  if (!dialog.open) { next.focus(); next.scrollIntoView({ block: "nearest" }); }
  return next;
}

function columns() {
  const top = cards[0].offsetTop;
  const next = cards.findIndex((card) => card.offsetTop > top);
  return next < 0 ? cards.length : next;
}

for (const card of cards) {
  card.addEventListener("mouseenter", () => show(card));
  card.addEventListener("mouseleave", () => show(cards.includes(document.activeElement) ? document.activeElement : null));
  card.addEventListener("focus", () => show(card));
  card.addEventListener("blur", () => show(null));
  card.addEventListener("click", () => { card.focus(); enlarge(card); });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !cards.length) return;
  const open = dialog.open;
  const at = open ? enlarged : document.activeElement;
  const card = cards.includes(at) ? at : null;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: open ? 1 : columns(), ArrowUp: open ? -1 : -columns() };
  if (event.key in steps) {
    const next = card ? move(card, steps[event.key]) : move(cards[0], 0);
    if (open) enlarge(next);
  } else if (event.key === "Home" || event.key === "End") {
    const next = move(event.key === "Home" ? cards[0] : cards.at(-1), 0);
    if (open) enlarge(next);
  } else if (event.key === "Enter" && card && !open) {
    enlarge(card);
  } else if (event.key === "m" || event.key === "M") {
    matches = !matches;
    redraw();
  } else return;
  event.preventDefault();
});

dialog.addEventListener("close", () => {
  $("pairlines").replaceChildren();
  enlarged.focus();
});
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
addEventListener("resize", redraw);
addEventListener("scroll", redraw, { passive: true });
document.querySelector("aside").addEventListener("scroll", redraw, { passive: true });
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
