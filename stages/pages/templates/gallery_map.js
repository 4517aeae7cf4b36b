// The map: a point for every region at the config's setting. Pointing at one shows it, a lasso shows its images.
const folded = byId("map");
if (folded) {
  const canvas = folded.querySelector("#plane > canvas"), context = canvas.getContext("2d");
  const tip = byId("tip"), [crop, words] = tip.children;
  const points = [];
  let next = 0;
  for (const card of [...cards].sort((a, b) => a.index - b.index)) {
    for (const row of card.maps[mapAt(card, data.own)]) {
      points.push({ card, row, x: data.points[next], y: data.points[next + 1], near: card.regions[row][2] });
      next += 2;
    }
  }
  const frequent = new Map();
  for (const { near } of points) frequent.set(near, (frequent.get(near) ?? 0) + 1);
  const named = [...frequent].sort((a, b) => b[1] - a[1]).slice(0, 24).map(([near]) => near);
  const right = (point) => 10 + (point.x * (canvas.width - 20)) / 1000;
  const down = (point) => canvas.height - 10 - (point.y * (canvas.height - 20)) / 1000;

  for (const near of named) {
    const entry = make("span"), dot = make("span", "", "dot");
    dot.style.background = data.class_colours[near];
    entry.append(dot, data.classes[near]);
    byId("legend").append(entry);
  }
  if (frequent.size > named.length) byId("legend").append(make("span", "and others"));

  function drawMap(lasso = []) {
    const side = Math.max(4, (3 * canvas.width) / (canvas.clientWidth || canvas.width)); // 3 pixels on a phone too
    context.clearRect(0, 0, canvas.width, canvas.height);
    for (const point of points) {
      context.globalAlpha = lassoed && !lassoed.has(point.card.index) ? 0.12 : 0.75;
      context.fillStyle = data.class_colours[point.near];
      context.fillRect(right(point) - side / 2, down(point) - side / 2, side, side);
    }
    context.globalAlpha = 1;
    if (lasso.length < 2) return;
    context.beginPath();
    for (const [x, y] of lasso) context.lineTo(x, y);
    context.strokeStyle = "#1f2630";
    context.stroke();
  }

  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  };

  function nearest([x, y]) {
    let best = null, least = 12 ** 2;
    for (const point of points) {
      const distance = (right(point) - x) ** 2 + (down(point) - y) ** 2;
      if (distance < least) [best, least] = [point, distance];
    }
    return best;
  }

  function inside(lasso, x, y) {
    let found = false;
    for (let i = 0, j = lasso.length - 1; i < lasso.length; j = i, i += 1) {
      const [xi, yi] = lasso[i], [xj, yj] = lasso[j];
      if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) found = !found;
    }
    return found;
  }

  async function point(event) { // show the region under the pointer: all else of its image is pale
    const found = nearest(at(event));
    tip.hidden = !found;
    if (!found) return;
    const { card, row } = found, box = canvas.getBoundingClientRect();
    tip.style.left = `${Math.min(event.clientX - box.left + 14, box.width - 190)}px`;
    tip.style.top = `${event.clientY - box.top + 14}px`;
    if (tip.dataset.shown === `${card.id} ${row}`) return;
    tip.dataset.shown = `${card.id} ${row}`;
    words.textContent = `${card.id}\n${describe(card, row)}`;
    const image = picture(card, "");
    const [maps] = await Promise.all([cellsOf(card), image.decode()]);
    if (tip.dataset.shown !== `${card.id} ${row}`) return;
    const mask = make("canvas");
    paint(mask, card, maps[mapAt(card, data.own)], 1, row);
    [crop.width, crop.height] = card.size;
    const drawing = crop.getContext("2d");
    drawing.drawImage(image, 0, 0);
    drawing.drawImage(mask, 0, 0);
    if (!card.filled) card.cells = null;
  }

  let lasso = null;
  canvas.addEventListener("pointerdown", (event) => {
    lasso = [at(event)];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!lasso) return point(event);
    lasso.push(at(event));
    drawMap(lasso);
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("pointerup", (event) => {
    const drawn = lasso;
    lasso = null;
    const found = drawn.length < 4 ? [] : points.filter((one) => inside(drawn, right(one), down(one)));
    if (found.length) choose(new Set(found.map((one) => one.card.index)));
    else {
      drawMap();
      const one = nearest(at(event));
      if (one && drawn.length < 4) enlarge(one.card);
    }
  });

  function choose(images) {
    lassoed = images;
    byId("free").hidden = !images;
    drawMap();
    update();
  }
  byId("free").addEventListener("click", () => choose(null));
  folded.addEventListener("toggle", () => drawMap());
}
