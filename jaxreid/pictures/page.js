/* results.js */
const photos = [...document.querySelectorAll(".photo")];
const photo = (card) => photos[card.dataset.photo];

const list = rankedList({
  photo,
  links: (card) => JSON.parse(card.dataset.links),
  caption(card) {
    $("name").textContent = photo(card).parentElement.textContent;
    const parts = [...card.querySelectorAll(".rank, .sure strong, .where, .name")];
    $("about").textContent = parts.map((part, i) => (i ? "" : "rank ") + part.textContent.trim()).join(" · ");
  },
});
for (const card of $("cards").children) list.listen(card);
