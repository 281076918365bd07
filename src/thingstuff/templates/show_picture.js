// The page may be read from file://, where nothing can be fetched: data come as scripts that call `thingstuff`.
// A place is a segment's row plus one, as in a picture's runs; place 0 is void.
"use strict";
const settings = JSON.parse(document.body.dataset.settings);
const field = {file: 0, split: 1, name: 2, id: 3, width: 4, height: 5, thumbWidth: 6, thumbHeight: 7, codes: 8, faults: 9, kinds: 10};
const row = {id: 0, label: 1, area: 2, x: 3, y: 4, width: 5, height: 6, flags: 7, note: 8, color: 9};
const bits = {plain: 1, crowd: 2, filled: 4};
const DRAWN = 60, LISTED = 200, KEPT = 8;
const get = id => document.getElementById(id);
const make = (tag, text = "", className = "") => {
  const element = document.createElement(tag);
  element.textContent = text;
  element.className = className;
  return element;
};
const number = value => value.toLocaleString("en");

let current = null, hovered = 0;

// The picture that is looked at: its segments in words, its map painted.

function prepare(n, entry, details) {
  const [width, height] = [entry[field.width], entry[field.height]];
  const places = new Uint32Array(width * height);
  for (let i = 0, at = 0; i < details.runs.length; i += 2) {
    places.fill(details.runs[i], at, at + details.runs[i + 1]);
    at += details.runs[i + 1];
  }
  current = {n, width, height, places, details, segments: details.segments, chosen: 0, numbers: instanceNumbers(details.segments)};
  get("title").textContent = `${entry[field.name]} · ${settings.splits[entry[field.split]]}`
    + (entry[field.id] === null ? "" : ` · image ${entry[field.id]}`) + ` · ${details.size[0]} × ${details.size[1]}`;
  get("stage").style.setProperty("--ratio", width / height);
  get("picture").hidden = !details.picture;
  if (details.picture) get("picture").src = `pictures/${entry[field.file]}.jpg`;
  for (const id of ["fill", "lines"]) Object.assign(get(id), {width, height});
}

function instanceNumbers(segments) {
  const seen = new Map();
  return segments.map(segment => {
    seen.set(segment[row.label], (seen.get(segment[row.label]) ?? 0) + 1);
    return seen.get(segment[row.label]);
  });
}

function nameOf(place) {
  const segment = current.segments[place - 1], [name, thing] = settings.classes[segment[row.label]];
  if (segment[row.label] === settings.notListed) return segment[row.id] ? `id ${segment[row.id]}` : segment[row.note];
  return thing ? `${name} ${current.numbers[place - 1]}` : name;
}

function marksOf(segment) {
  const flags = settings.flags, marked = [];
  if (segment[row.flags] & flags.crowd) marked.push(["crowd", "note"]);
  if (segment[row.flags] & flags.filled) marked.push(["filled", "note"]);
  if (segment[row.flags] & flags.notListed) marked.push(["not listed", "error"]);
  if (segment[row.flags] & flags.noPixels) marked.push(["no pixels", "error"]);
  return marked;
}

function share(area) {
  const part = 100 * area / (current.details.size[0] * current.details.size[1]);
  return part && part < .1 ? "< 0.1" : part.toFixed(1);
}

function describe(place) {
  if (!place) return "void: nothing is annotated here";
  const segment = current.segments[place - 1];
  const id = segment[row.label] === settings.notListed ? "" : `id ${segment[row.id]}`;
  const note = segment[row.label] === settings.notListed ? "" : segment[row.note];
  const parts = [nameOf(place), id, `${number(segment[row.area])} pixels`, `${share(segment[row.area])} %`, ...marksOf(segment).map(([mark]) => mark), note];
  return parts.filter(Boolean).join(" · ");
}

function paint() {
  const {width, height, places, segments} = current;
  const image = new ImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  const colors = new Uint32Array(segments.length + 1);
  segments.forEach((segment, i) => {
    const alpha = !dims() || codeMatches(segmentCode(segment)) ? 255 : 30;
    colors[i + 1] = (alpha << 24 | segment[row.color]) >>> 0;
  });
  const stripe = Math.max(3, Math.round(Math.max(width, height) / 120)), isMap = current.details.map;
  for (let y = 0, p = 0; y < height; y++) {
    for (let x = 0; x < width; x++, p++) {
      const place = places[p];
      // void: dark stripes
      pixels[p] = place ? colors[place] : isMap ? (Math.floor((x + y) / stripe) % 2 ? 0xd0000000 : 0x80000000) : 0;
    }
  }
  get("fill").getContext("2d").putImageData(image, 0, 0);
  current.borders = borders(width, height, places);
  outline();
}

function borders(width, height, places) {
  const pixels = new Uint32Array(width * height);
  for (let y = 0, p = 0; y < height; y++) {
    for (let x = 0; x < width; x++, p++) {
      const right = x + 1 < width && places[p + 1] !== places[p], below = y + 1 < height && places[p + width] !== places[p];
      if (right && !pixels[p + 1]) pixels[p + 1] = 0x90000000;
      if (below && !pixels[p + width]) pixels[p + width] = 0x90000000;
      if (right || below) pixels[p] = 0xffffffff;
    }
  }
  return pixels;
}

// The segment that is pointed at or chosen has a yellow line with a black one around it.
function outline() {
  const {width, height, places, segments} = current, place = hovered || current.chosen;
  const image = new ImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  if (get("borders-on").checked) pixels.set(current.borders);
  const thick = Math.max(1, Math.round(Math.max(width, height) / 450));
  for (const [reach, color] of place ? [[2 * thick, 0xff000000], [thick, 0xff4de1ff]] : []) {
    for (let y = 0, p = 0; y < height; y++) {
      for (let x = 0; x < width; x++, p++) {
        const inside = places[p] === place;
        if (x + 1 < width && inside !== (places[p + 1] === place) || y + 1 < height && inside !== (places[p + width] === place)) {
          for (let j = Math.max(0, y - reach + 1); j <= Math.min(height - 1, y + reach); j++) {
            pixels.fill(color, j * width + Math.max(0, x - reach + 1), j * width + Math.min(width, x + reach + 1));
          }
        }
      }
    }
  }
  get("lines").getContext("2d").putImageData(image, 0, 0);
  get("about").textContent = place ? describe(place) : current.details.map ? "Point at a segment; a click keeps it." : "";
  [...get("segments").tBodies[0].rows].forEach((line, i) => {
    line.classList.toggle("hover", i + 1 === hovered);
    line.classList.toggle("chosen", i + 1 === current.chosen);
  });
  aim(segments[place - 1]);
}

// A segment of a few pixels may be lost at the size shown: a frame says where it is.
function aim(segment) {
  const [width, height] = current.details.size;
  const small = segment && segment[row.area] && Math.max(segment[row.width] / width, segment[row.height] / height) < .05;
  get("aim").hidden = !small;
  if (!small) return;
  const part = (value, of) => `${100 * value / of}%`;
  Object.assign(get("aim").style, {
    left: part(segment[row.x] + segment[row.width] / 2, width), top: part(segment[row.y] + segment[row.height] / 2, height),
    width: part(2 * segment[row.width], width), height: part(2 * segment[row.height], height),
  });
}

function point(place) {
  if (place === hovered) return;
  hovered = place;
  outline();
}
