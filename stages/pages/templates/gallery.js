"use strict";
// What the page holds: JSON with numbers and names, and for each image a block of text with its picture and its maps.
// Blocks are read, and cards are filled, only while they are near the window.
const data = JSON.parse(document.getElementById("data").content.textContent);
const byId = (name) => document.getElementById(name);
const grid = byId("grid"), controls = byId("controls"), slider = byId("merge"), large = byId("large");
const blocks = document.querySelectorAll("template.image");
const merges = data.curves.merges;
let place = data.own; // of the setting that is shown

const make = (name, text = "", kind = "") => {
  const element = document.createElement(name);
  if (text) element.textContent = text;
  if (kind) element.className = kind;
  return element;
};

const cards = data.images.map((about, index) => ({ ...about, index, element: make("article"), chosen: true }));
const cardOf = new Map(cards.map((card) => [card.element, card]));
for (const card of cards) card.element.dataset.id = card.id;

// ---- regions of an image at a setting ----

function mapAt(card, at) {
  let map = card.starts.length - 1;
  while (card.starts[map] > at) map -= 1;
  return map;
}

const regionsOf = (card) => card.maps[mapAt(card, place)];
const areas = (card) => regionsOf(card).map((row) => card.regions[row][0] / 10);

function describe(card, row) {
  const [area, , ...near] = card.regions[row];
  const names = [];
  for (let i = 0; i < near.length; i += 2) names.push(`${data.classes[near[i]]} ${(near[i + 1] / 100).toFixed(2)}`);
  return [`${(area / 10).toFixed(1)} %`, ...names].join(", ");
}

async function unpack(card) { // the cells of every map: 1 + row of `regions`, 0 for none
  const bytes = Uint8Array.from(atob(text(card)[1]), (sign) => sign.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const cells = new Uint16Array(await new Response(stream).arrayBuffer());
  const size = card.grid[0] * card.grid[1];
  for (let i = size; i < cells.length; i += 1) cells[i] += cells[i - size]; // each map is less the one before
  return card.starts.map((_, map) => cells.subarray(map * size, (map + 1) * size));
}

const text = (card) => blocks[card.index].content.textContent.split(" ");
const cellsOf = (card) => (card.cells ??= unpack(card));

async function regionsAt(id, at) { // region numbers as ClusterPseudoMasks stores them; for tests
  const card = cards.find((one) => one.id === id), map = mapAt(card, at);
  const numbers = new Map(card.maps[map].map((row, index) => [row + 1, index + 1]));
  return Array.from((await cellsOf(card))[map], (cell) => numbers.get(cell) ?? 0);
}

// ---- pictures ----

const BORDER = 0xc0101010;
const tint = (colour, alpha) => {
  const value = parseInt(data.colours[colour % data.colours.length].slice(1), 16);
  return ((alpha << 24) | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
};

function paint(canvas, card, cells, scale, only = -1) {
  const width = card.size[0] * scale, height = card.size[1] * scale, [columns, rows] = card.grid;
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  const out = new Uint32Array(image.data.buffer);
  const column = Int32Array.from({ length: width }, (_, x) => Math.floor(((x + 0.5) * columns) / width));
  const colours = card.regions.map(([, colour]) => tint(colour, 140));
  for (let y = 0; y < height; y += 1) {
    const line = Math.floor(((y + 0.5) * rows) / height) * columns;
    const next = y + 1 < height ? Math.floor(((y + 1.5) * rows) / height) * columns : line;
    for (let x = 0; x < width; x += 1) {
      const cell = cells[line + column[x]];
      const edge = cells[next + column[x]] !== cell || (x + 1 < width && cells[line + column[x + 1]] !== cell);
      if (only >= 0) out[y * width + x] = cell === only + 1 ? 0 : 0xe0ffffff;
      else if (edge) out[y * width + x] = BORDER;
      else if (cell) out[y * width + x] = colours[cell - 1];
    }
  }
  context.putImageData(image, 0, 0);
}

async function draw(card, canvas, scale = 1) {
  const maps = await cellsOf(card);
  if (canvas.isConnected) paint(canvas, card, maps[mapAt(card, place)], scale);
}

const source = (card) => `data:image/jpeg;base64,${text(card)[0]}`;

function picture(card, label) {
  const image = make("img");
  image.src = source(card);
  [image.width, image.height] = card.size;
  image.alt = label;
  return image;
}

function sides(card, kind) {
  const around = make(kind, "", "sides"), over = make("span"), canvas = make("canvas");
  over.append(picture(card, ""), canvas);
  around.append(picture(card, `image of ${card.id}`), over);
  return [around, canvas];
}

function list(card) {
  const items = make("ol", "", "regions");
  regionsOf(card).forEach((row, index) => {
    const item = make("li"), dot = make("span", "", "dot");
    dot.style.background = data.colours[card.regions[row][1] % data.colours.length];
    item.append(dot, make("span", `${index + 1}: ${describe(card, row)}`));
    items.append(item);
  });
  return items;
}

// ---- cards ----

const counted = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;

function facts(card) {
  const seen = card.seen.map((index) => data.classes[index]).join(", ");
  const quality = card.quality === null ? "–" : card.quality.toFixed(3);
  return `quality ${quality}${seen ? ` · annotated: ${seen}` : ""}`;
}

function fill(card) {
  const [around, canvas] = sides(card, "button");
  around.addEventListener("click", () => enlarge(card));
  const details = make("details"), summary = make("summary");
  details.append(summary);
  details.addEventListener("toggle", () => { card.open = details.open; });
  details.open = Boolean(card.open);
  card.filled = { canvas, details, summary };
  card.element.style.minHeight = "";
  card.element.replaceChildren(around, make("h2", card.id), make("p", facts(card)), details);
  refresh(card);
}

function refresh(card) {
  const { canvas, details, summary } = card.filled;
  summary.textContent = counted(regionsOf(card).length, "region");
  details.replaceChildren(summary, list(card));
  draw(card, canvas);
}

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const card = cardOf.get(target);
    if (isIntersecting && !card.filled) fill(card);
    if (!isIntersecting && card.filled) {
      card.filled = card.cells = null;
      target.style.minHeight = `${target.offsetHeight}px`; // what is below it must not move
      target.replaceChildren();
    }
  }
}, { rootMargin: "800px" });

// ---- the slider and its curves ----

const CURVES = [
  ["regions", "", "regions an image", 1],
  ["covered", " %", "of an image covered", 1],
  ["crowded", " %", `of the images have over ${data.curves.queries} regions (queries)`, 1],
  ["iou", " %", "IoU: best cluster with a seen class", 1],
].filter(([name]) => data.curves[name]);

const last = Math.max(1, merges.length - 1);
const readouts = CURVES.map(([name, unit, label]) => {
  const values = data.curves[name], most = Math.max(...values), least = Math.min(...values);
  const figure = make("figure"), caption = make("figcaption"), value = make("b"), canvas = make("canvas");
  [canvas.width, canvas.height] = [440, 72];
  caption.append(value, label);
  figure.append(canvas, caption);
  byId("curves").append(figure);
  const context = canvas.getContext("2d");
  const across = (at) => 2 + (436 * at) / last, up = (height) => 69 - (66 * (height - least)) / (most - least || 1);
  const line = (colour, width, points) => {
    context.beginPath();
    for (const point of points) context.lineTo(...point);
    [context.strokeStyle, context.lineWidth] = [colour, width];
    context.stroke();
  };
  return () => {
    value.textContent = `${values[place].toFixed(1)}${unit}`;
    context.clearRect(0, 0, canvas.width, canvas.height);
    line("#b9c1ca", 2, [[across(data.own), 0], [across(data.own), 72]]);
    line("#2f6fb3", 3, values.map((height, at) => [across(at), up(height)]));
    line("#d9731a", 4, [[across(place), 0], [across(place), 72]]);
  };
});

function show(at) {
  place = Math.min(Math.max(at, 0), merges.length - 1);
  slider.value = place;
  byId("value").textContent = merges[place].toFixed(2);
  byId("back").disabled = place === data.own;
  for (const readout of readouts) readout();
  for (const card of cards) if (card.filled) refresh(card);
  if (large.open) enlarge(shown);
}

slider.addEventListener("input", () => show(Number(slider.value)));
slider.addEventListener("change", () => update());
byId("back").addEventListener("click", () => { show(data.own); update(); });

// ---- one image, large ----

let shown = null;

function enlarge(card) {
  shown = card;
  const [around, canvas] = sides(card, "div");
  const head = `merge ${merges[place].toFixed(2)} · ${counted(regionsOf(card).length, "region")} · ${facts(card)}`;
  large.querySelector(".body").replaceChildren(make("h2", card.id), make("p", head), around, list(card));
  if (!large.open) large.showModal();
  draw(card, canvas, 4);
}

function step(by) {
  const visible = cards.filter((card) => card.chosen);
  const next = visible[visible.indexOf(shown) + by];
  if (next) enlarge(next);
}

byId("before").addEventListener("click", () => step(-1));
byId("after").addEventListener("click", () => step(1));
large.addEventListener("keydown", (event) => {
  const keys = { ArrowLeft: [step, -1], ArrowRight: [step, 1] };
  const moves = { ArrowUp: 1, ArrowDown: -1 };
  if (keys[event.key]) keys[event.key][0](keys[event.key][1]);
  else if (moves[event.key]) show(place + moves[event.key]);
  else return;
  event.preventDefault();
});
large.addEventListener("close", () => update());

// ---- filters and order ----

const largest = (card) => areas(card).reduce((most, area) => Math.max(most, area), 0);
const orders = { quality: (card) => card.quality, regions: (card) => regionsOf(card).length, area: largest };
let lassoed = null; // images whose regions were drawn around

function chosen(name, fallback) {
  const value = controls.elements[name] ? controls.elements[name].value : "";
  return value === "" ? fallback : Number(value);
}

function update() {
  const seen = chosen("seen", -1), near = chosen("near", -1), part = controls.elements.id.value.trim().toLowerCase();
  const few = chosen("few", 0), many = chosen("many", Infinity);
  const small = chosen("small", 0), most = chosen("large", 100), anyArea = small <= 0 && most >= 100;
  let count = 0;
  for (const card of cards) {
    const rows = regionsOf(card);
    card.chosen = (!lassoed || lassoed.has(card.index)) && card.id.toLowerCase().includes(part) &&
      (seen < 0 || card.seen.includes(seen)) && (near < 0 || rows.some((row) => card.regions[row][2] === near)) &&
      rows.length >= few && rows.length <= many &&
      (anyArea || areas(card).some((area) => area >= small && area <= most));
    card.element.hidden = !card.chosen;
    count += card.chosen;
  }
  byId("shown").textContent = count.toLocaleString("en");
  byId("none").hidden = count > 0;
}

function sort() {
  const [name, direction] = controls.elements.order.value.split(" ");
  const key = orders[name], sign = direction === "down" ? -1 : 1;
  const keys = new Map(cards.map((card) => [card, key ? key(card) : null]));
  cards.sort((a, b) => {
    const x = keys.get(a), y = keys.get(b);
    if ((x === null) !== (y === null)) return x === null ? 1 : -1;
    if (x !== y) return sign * (x - y);
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
show(data.own);
update();
for (const card of cards) watcher.observe(card.element);
