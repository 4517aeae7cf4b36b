"use strict";
// Enlarges pictures: one switch for what is shown, of the same part of the image; then copying of tables, and the
// words of a cell of the confusion matrix. Works on text and pictures that are on the page; loads nothing.
document.documentElement.classList.add("js");

const viewer = document.getElementById("viewer");
const picture = new Image(), stage = viewer.querySelector(".stage");
const examples = Array.from(document.querySelectorAll("article.example"), (article) => ({
  article,
  name: article.querySelector("h3").firstChild.textContent.trim(),
  pictures: Array.from(article.querySelectorAll("figure"), (figure) => ({
    kind: figure.querySelector("figcaption").firstChild.textContent.trim(),
    source: figure.querySelector("img"),
  })),
}));
let place = 0, kind = "", scale = 1, x = 0, y = 0;

function draw() {
  picture.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
  picture.style.imageRendering = scale > 2 ? "pixelated" : "auto";
}

function show() {
  const { name, pictures } = examples[place];
  const found = pictures.find((entry) => entry.kind === kind) || pictures[0];
  kind = found.kind;
  picture.src = found.source.src;
  picture.alt = found.source.alt;
  stage.append(picture);
  viewer.querySelector("b").textContent = name;
  viewer.querySelector(".kinds").replaceChildren(...pictures.map((entry, number) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = entry.kind;
    button.title = `key ${number + 1}`;
    button.setAttribute("aria-pressed", entry === found);
    button.addEventListener("click", () => { kind = entry.kind; show(); });
    return button;
  }));
  viewer.querySelector(".kinds [aria-pressed=true]").focus();  // keys reach the viewer from there
}

function reset() { scale = 1; x = 0; y = 0; draw(); }

function zoom(factor, atX = stage.clientWidth / 2, atY = stage.clientHeight / 2) {
  const next = Math.min(16, Math.max(1, scale * factor));
  const centreX = atX - stage.clientWidth / 2, centreY = atY - stage.clientHeight / 2;
  x = centreX - (centreX - x) * next / scale;
  y = centreY - (centreY - y) * next / scale;
  scale = next;
  if (scale === 1) { x = 0; y = 0; }
  draw();
}

function move(step) {
  place = (place + step + examples.length) % examples.length;
  reset();
  show();
}

examples.forEach((example, number) => {
  for (const { source, kind: own } of example.pictures) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "enlarge";
    button.setAttribute("aria-label", `Enlarge ${source.alt}`);
    source.replaceWith(button);
    button.append(source);
    button.addEventListener("click", () => { place = number; kind = own; viewer.showModal(); reset(); show(); });
  }
});

const actions = {
  back: () => move(-1), next: () => move(1), in: () => zoom(1.5), out: () => zoom(1 / 1.5), close: () => viewer.close(),
};
viewer.addEventListener("click", (event) => {
  const action = event.target.dataset && event.target.dataset.do;
  if (action) actions[action]();
});
viewer.addEventListener("keydown", (event) => {
  const keys = { ArrowLeft: "back", ArrowRight: "next", "+": "in", "=": "in", "-": "out" };
  const chosen = examples[place].pictures[Number(event.key) - 1];
  if (chosen) { kind = chosen.kind; show(); }
  else if (keys[event.key]) actions[keys[event.key]]();
});
stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = stage.getBoundingClientRect();
  zoom(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });

const fingers = new Map();
const apart = () => {
  const [a, b] = fingers.values();
  return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
};
stage.addEventListener("pointerdown", (event) => { fingers.set(event.pointerId, event); stage.setPointerCapture(event.pointerId); });
stage.addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  const distance = fingers.size === 2 ? apart() : 0;
  fingers.set(event.pointerId, event);
  if (distance) zoom(apart() / distance);
  else if (scale > 1) { x += event.clientX - before.clientX; y += event.clientY - before.clientY; draw(); }
});
for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => fingers.delete(event.pointerId));

for (const form of document.querySelectorAll("details.form")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "copy";
  form.querySelector("pre").before(button);
  button.addEventListener("click", async () => {
    const text = form.querySelector("pre");
    try {
      await navigator.clipboard.writeText(text.textContent);
    } catch {  // not allowed here: the older way
      getSelection().selectAllChildren(text);
      document.execCommand("copy");
    }
    button.textContent = "copied";
  });
}

const words = document.getElementById("cell");
for (const cell of document.querySelectorAll(".matrix td[title]")) {
  cell.addEventListener("click", () => { words.textContent = cell.title; });
}

function unfold() {  // a link may lead to a picture that is folded away
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (!target) return;
  for (let around = target.closest("details"); around; around = around.parentElement.closest("details")) around.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", unfold);
unfold();
