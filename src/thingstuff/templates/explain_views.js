// Pictures that answer: what a map holds where one points, and what a cell of an attention looks at.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const get = id => document.getElementById(id);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const LEVELS = data.scales.amounts.length, NO_NUMBER = 0; // black, a level beyond the last

const pixels = new WeakMap();

// An image's pixels as numbers 0xRRGGBB; null until it is decoded.
function pixelsOf(image) {
  if (!pixels.has(image) && image.complete && image.naturalWidth) {
    const canvas = document.createElement("canvas");
    const [width, height] = [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d", {willReadFrequently: true});
    context.drawImage(image, 0, 0);
    const bytes = context.getImageData(0, 0, width, height).data, colors = new Uint32Array(width * height);
    for (let i = 0; i < colors.length; i++) colors[i] = bytes[4 * i] << 16 | bytes[4 * i + 1] << 8 | bytes[4 * i + 2];
    pixels.set(image, {width, height, colors});
  }
  return pixels.get(image) ?? null;
}

const levelOf = Object.fromEntries(Object.entries(data.scales).map(([name, scale]) => [name, new Map([...scale, NO_NUMBER].map((color, level) => [color, level]))]));

// Some browsers change pixels a little, against tracking: the nearest colour is meant.
function level(scale, color) {
  const known = levelOf[scale].get(color);
  if (known !== undefined) return known;
  const off = other => [16, 8, 0].reduce((sum, shift) => sum + ((other >> shift & 255) - (color >> shift & 255)) ** 2, 0);
  const colors = [...data.scales[scale], NO_NUMBER];
  const found = colors.reduce((best, other, n) => off(other) < off(colors[best]) ? n : best, 0);
  levelOf[scale].set(color, found);
  return found;
}

function number(value) {
  if (value && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5)) {
    const [mantissa, power] = value.toExponential(1).split("e");
    return `${mantissa.replace("-", "−")} · 10${power.replace("+", "").replace(/./g, sign => "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign] ?? "⁻")}`;
  }
  return Number(value.toPrecision(3)).toLocaleString("en", {maximumFractionDigits: 5}).replace("-", "−");
}

function fraction(element, event) {
  const box = element.getBoundingClientRect();
  const within = (at, begin, size) => Math.min(.99999, Math.max(0, (at - begin) / size));
  return [within(event.clientX, box.left, box.width), within(event.clientY, box.top, box.height)];
}

// The segment, its place plus one, at shares of the canvas.
function placeAt(x, y) {
  const map = pixelsOf(get("places"));
  if (!map) return 0;
  const color = map.colors[Math.floor(y * map.height) * map.width + Math.floor(x * map.width)];
  return color >> 16 | color & 0xff00;
}

function segmentUnder(stage, event) {
  let [x, y] = fraction(stage, event);
  if (stage.classList.contains("cut")) [x, y] = [x * data.cut[0], y * data.cut[1]];
  return data.segments[placeAt(x, y) - 1] ?? null;
}

// What is to be said of a place of a stage.
function told(stage, event) {
  const [x, y] = fraction(stage, event);
  const name = stage.dataset.names ? null : segmentUnder(stage, event)?.name;
  if (stage.classList.contains("final")) return name ?? "void: no segment has this pixel";
  if (stage.dataset.low === undefined) return "";
  const map = stage.attention ?? pixelsOf(stage.querySelector("img.layer"));
  if (!map) return "";
  const column = Math.floor(x * map.width), row = Math.floor(y * map.height), at = row * map.width + column;
  const share = map.shares ? map.shares[at] / 255 : level(stage.dataset.scale, map.colors[at]) / (LEVELS - 1);
  const known = `${number(+stage.dataset.low + share * (stage.dataset.high - stage.dataset.low))} ${stage.dataset.unit}`;
  const value = share > 1 ? "not finite" : known;
  if (stage.dataset.names) {
    const names = JSON.parse(stage.dataset.names);
    return `${names[row]} and ${names[column]}: ${value}`;
  }
  return `${value} · row ${row + 1}, column ${column + 1}${name ? ` · ${name}` : ""}`;
}

function tip(text, event) {
  get("tip").hidden = !text;
  if (!text) return;
  get("tip").textContent = text;
  const box = get("tip").getBoundingClientRect();
  const left = Math.min(event.clientX + 14, innerWidth - box.width - 6), above = event.clientY + 18 + box.height > innerHeight;
  Object.assign(get("tip").style, {left: `${Math.max(6, left)}px`, top: `${above ? event.clientY - box.height - 12 : event.clientY + 18}px`});
}

function pointed(event) {
  const stage = event.target.closest?.(".stage"), mark = event.target.closest?.(".mark");
  tip(mark ? mark.dataset.text : stage ? told(stage, event) : "", event);
}

for (const name of ["pointermove", "pointerdown"]) document.addEventListener(name, pointed);
for (const name of ["scroll", "pointerleave"]) document.addEventListener(name, () => { get("tip").hidden = true; }, {passive: true});

// Our own tip comes at once and on touch, where that of a title would not.
for (const mark of all(".mark")) {
  const title = mark.querySelector("title");
  mark.dataset.text = title.textContent;
  mark.setAttribute("aria-label", title.textContent);
  title.remove();
}

// An attention: the tile of the chosen cell, coloured.
const attentions = all("figure.attention").map(figure => {
  const stage = figure.querySelector(".stage"), own = JSON.parse(figure.querySelector(".attention-data").textContent);
  const [rows, columns] = own.grid, [height, width] = own.shape, canvas = document.createElement("canvas");
  const select = figure.querySelector("select"), atlases = all(".atlas", figure);
  let cell = own.cell, drawn = false;
  Object.assign(canvas, {width, height, className: "layer"});

  function show(row, column) {
    cell = [row, column] = [Math.min(rows - 1, Math.max(0, row)), Math.min(columns - 1, Math.max(0, column))];
    const atlas = atlases[select ? select.selectedIndex : 0], whole = pixelsOf(atlas);
    if (!whole) { atlas.decode().then(() => show(row, column)); return; }
    const image = new ImageData(width, height), words = new Uint32Array(image.data.buffer), shares = new Uint8Array(width * height);
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        shares[i] = whole.colors[(row * height + y) * whole.width + column * width + x] & 255;
        const color = data.scales.amounts[Math.round(shares[i] / 255 * (LEVELS - 1))];
        words[i] = (0xff000000 | (color & 255) << 16 | color & 0xff00 | color >> 16) >>> 0;
      }
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    if (!drawn) stage.querySelector("img.layer").replaceWith(canvas);
    drawn = true;
    const largest = own.largest[atlas.dataset.name][row * columns + column];
    stage.attention = {width, height, shares};
    stage.dataset.high = largest;
    figure.querySelector("[data-end=high]").textContent = number(largest);
    Object.assign(figure.querySelector(".aim").style, {left: `${100 * column / columns}%`, top: `${100 * row / rows}%`});
    const name = data.segments[placeAt((column + .5) / columns, (row + .5) / rows) - 1]?.name;
    figure.querySelector(".cell").textContent = `Cell in row ${row + 1} of ${rows}, column ${column + 1} of ${columns}${name ? `, on ${name}` : ""}.`;
  }

  const at = (x, y) => show(Math.floor(y * rows), Math.floor(x * columns));
  stage.addEventListener("click", event => { stage.focus({preventScroll: true}); at(...fraction(stage, event)); });
  stage.addEventListener("keydown", event => {
    const [down, right] = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key] ?? [0, 0];
    if (!down && !right || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    show(cell[0] + down, cell[1] + right);
  });
  select?.addEventListener("change", () => show(...cell));
  return {at};
});
