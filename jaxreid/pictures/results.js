"use strict";
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const RAMP = [[255, 243, 150], [255, 150, 40], [205, 15, 85]];

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

/* The part of an element that its picture covers. */
function box(image) {
  const frame = image.getBoundingClientRect();
  const style = getComputedStyle(image);
  if (style.objectFit !== "contain") return frame;
  const scale = Math.min(frame.width / image.naturalWidth, frame.height / image.naturalHeight);
  const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];
  const at = style.objectPosition.startsWith("0") ? 0 : (frame.width - width) / 2;
  return { left: frame.left + at, top: frame.top + (frame.height - height) / 2, width, height };
}

/* Lines between two images, the strongest on top; x and y are fractions of each. */
function draw(svg, left, right, links) {
  svg.replaceChildren();
  if (!left || !right || !left.naturalWidth || !right.naturalWidth) return;
  const origin = svg.getBoundingClientRect();
  const [a, b] = [box(left), box(right)];
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

/* The cards in #cards: hovered or focused, a card shows its matches with a photo of the person;
   clicked, both are enlarged.

   photo(card): image of the person that it is compared with
   links(card): matches of the two, [x, y, x, y, share], the strongest first
   caption(card): write below the enlarged images
   busy(): whether keys are for something else */
function rankedList({ photo, links, caption, busy = () => false }) {
  const dialog = $("large");
  const cards = () => [...$("cards").children];
  const picture = (card) => card.querySelector("img");
  let shown = null;
  let enlarged = null;
  let matches = true;

  function show(card) {
    shown = card;
    if (card) draw($("lines"), photo(card), picture(card), matches ? links(card) : []);
    else $("lines").replaceChildren();
  }

  function redraw() {
    show(shown);
    if (dialog.open) draw($("pairlines"), $("left"), $("right"), matches ? links(enlarged) : []);
  }

  function enlarge(card) {
    if (!picture(card)) return;
    enlarged = card;
    $("pairlines").replaceChildren();
    $("left").src = photo(card).src;
    $("right").src = picture(card).src;
    caption(card);
    show(null);
    if (!dialog.open) dialog.showModal();
    Promise.all([$("left").decode(), $("right").decode()]).finally(redraw);
  }

  function move(card, step) {
    const all = cards();
    const next = all[all.indexOf(card) + step];
    if (!next) return card;
    for (const other of all) other.tabIndex = other === next ? 0 : -1;
    if (!dialog.open) { next.focus(); next.scrollIntoView({ block: "nearest" }); }
    return next;
  }

  function columns() {
    const all = cards();
    const next = all.findIndex((card) => card.offsetTop > all[0].offsetTop);
    return next < 0 ? all.length : next;
  }

  function listen(card) {
    card.addEventListener("mouseenter", () => show(card));
    card.addEventListener("mouseleave", () => show(cards().includes(document.activeElement) ? document.activeElement : null));
    card.addEventListener("focus", () => show(card));
    card.addEventListener("blur", () => show(null));
    card.addEventListener("click", () => { card.focus(); enlarge(card); });
  }

  function clear() {
    if (dialog.open) dialog.close();
    show(null);
    $("cards").replaceChildren();
  }

  document.addEventListener("keydown", (event) => {
    const all = cards();
    if (event.ctrlKey || event.metaKey || event.altKey || !all.length || busy()) return;
    const open = dialog.open;
    const at = open ? enlarged : document.activeElement;
    const card = all.includes(at) ? at : null;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: open ? 1 : columns(), ArrowUp: open ? -1 : -columns() };
    if (event.key in steps) {
      const next = card ? move(card, steps[event.key]) : move(all[0], 0);
      if (open) enlarge(next);
    } else if (event.key === "Home" || event.key === "End") {
      const next = move(event.key === "Home" ? all[0] : all.at(-1), 0);
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
    if (enlarged.isConnected) enlarged.focus();
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  addEventListener("resize", redraw);
  addEventListener("scroll", redraw, { passive: true });
  document.querySelector("aside").addEventListener("scroll", redraw, { passive: true });
  return { listen, clear };
}

$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
