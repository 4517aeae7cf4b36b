"use strict";
const grid = document.getElementById("grid");
const controls = document.getElementById("controls");
const numbers = (text) => (text ? text.split(" ").map(Number) : []);
const cards = Array.from(grid.children, (element) => ({
  element,
  quality: element.dataset.quality === "" ? null : Number(element.dataset.quality),
  seen: numbers(element.dataset.seen),
  near: numbers(element.dataset.near),
  areas: numbers(element.dataset.areas),
  id: element.dataset.id,
}));
const largest = (card) => card.areas.reduce((most, area) => Math.max(most, area), 0);
const keys = { quality: (card) => card.quality, regions: (card) => card.areas.length, area: largest };

function chosen(name, fallback) {
  const value = controls.elements[name] ? controls.elements[name].value : "";
  return value === "" ? fallback : Number(value);
}

function update() {
  const seen = chosen("seen", -1), near = chosen("near", -1);
  const few = chosen("few", 0), many = chosen("many", Infinity);
  const small = chosen("small", 0), large = chosen("large", 100);
  const anyArea = small <= 0 && large >= 100;
  let shown = 0;
  for (const card of cards) {
    const fits = (seen < 0 || card.seen.includes(seen)) && (near < 0 || card.near.includes(near)) &&
      card.areas.length >= few && card.areas.length <= many &&
      (anyArea || card.areas.some((area) => area >= small && area <= large));
    card.element.hidden = !fits;
    shown += fits;
  }
  document.getElementById("shown").textContent = shown.toLocaleString("en");
  document.getElementById("none").hidden = shown > 0;
}

function sort() {
  const [name, direction] = controls.elements.order.value.split(" ");
  const key = keys[name], sign = direction === "down" ? -1 : 1;
  cards.sort((a, b) => {
    if (key) {
      const x = key(a), y = key(b);
      if ((x === null) !== (y === null)) return x === null ? 1 : -1;
      if (x !== y) return sign * (x - y);
    }
    return a.id < b.id ? -1 : a.id > b.id ? 1 : 0;
  });
  grid.append(...cards.map((card) => card.element));
}

controls.addEventListener("input", (event) => {
  if (event.target.name === "order") sort();
  update();
});
controls.addEventListener("reset", () => setTimeout(() => { sort(); update(); }));
controls.addEventListener("submit", (event) => event.preventDefault());
sort();
update();
