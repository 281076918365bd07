// What is shown of the data set, as the address says it: the grid, or one picture (show_picture.js, which comes first).
const pictures = [], found = new Map(), kinds = new Map(), maps = new Map();
let filter = {}, matching = [], drawn = 0, open = null, complete = false, gridOf = null, gridScroll = 0;
history.scrollRestoration = "manual"; // who comes back from a picture finds the grid as it was

window.thingstuff = {
  pictures(chunk, rows) { rows.forEach((entry, i) => { pictures[chunk * settings.chunk + i] = entry; }); },
  found(chunk, rows) { found.set(chunk, rows); },
  kind(kind, rows) { kinds.set(kind, rows); },
  map(file, made, details) { maps.set(file, details); },
};

function load(path) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = path;
    script.onload = () => { script.remove(); resolve(); };
    script.onerror = () => { script.remove(); reject(new Error(path)); };
    document.head.append(script);
  });
}

function complain(error) {
  get("trouble").textContent = `${error.message} cannot be read: run thingstuff show again`;
  get("trouble").hidden = false;
}

// Filters: all that is chosen stands in the address, so that a link brings it back.

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const whole = key => (/^\d+$/.test(given.get(key) ?? "") ? Number(given.get(key)) : null);
  filter = {
    label: whole("class"), kind: given.get("kind") ?? "", split: given.get("split") ?? "",
    found: given.get("found") ?? "", name: given.get("name") ?? "",
  };
  return {picture: whole("picture"), segment: whole("segment")};
}

function address(picture, segment, wanted = filter) {
  const parts = new URLSearchParams();
  if (wanted.label !== null) parts.set("class", wanted.label);
  for (const key of ["kind", "split", "found", "name"]) if (wanted[key]) parts.set(key, wanted[key]);
  if (picture !== null) parts.set("picture", picture);
  if (segment) parts.set("segment", segment);
  return "#" + parts;
}

const go = (picture, segment, wanted) => { location.hash = address(picture, segment, wanted); };
const turn = (picture, segment) => location.replace(address(picture, segment)); // leaves no step for the back button

function codeMatches(code) {
  const label = code >> 3, known = label < settings.notListed;
  if (filter.label !== null && label !== filter.label) return false;
  switch (filter.kind) {
    case "things": return known && settings.classes[label][1];
    case "stuff": return known && !settings.classes[label][1];
    case "crowd": return (code & bits.crowd) > 0;
    case "filled": return (code & bits.filled) > 0;
    case "unlisted": return !known;
    default: return true;
  }
}

function segmentCode(segment) {
  const crowd = segment[row.flags] & settings.flags.crowd ? bits.crowd : 0;
  const filled = segment[row.flags] & settings.flags.filled ? bits.filled : 0;
  return segment[row.label] << 3 | (crowd | filled || bits.plain);
}

const dims = () => filter.label !== null || filter.kind !== "";

function pictureMatches(entry) {
  if (filter.split && settings.splits[entry[field.split]] !== filter.split) return false;
  if (filter.found === "faults" && !entry[field.faults]) return false;
  if (/^\d+$/.test(filter.found) && !entry[field.kinds].includes(Number(filter.found))) return false;
  if (filter.name && !entry[field.name].toLowerCase().includes(filter.name.toLowerCase())) return false;
  return !dims() || entry[field.codes].some(codeMatches);
}

function applyFilter() {
  matching = [];
  pictures.forEach((entry, n) => { if (pictureMatches(entry)) matching.push(n); });
  const all = matching.length === settings.pictures;
  get("count").textContent = all ? "" : `${number(matching.length)} of ${number(settings.pictures)} pictures` + (complete ? "" : " so far");
  get("reset").hidden = !(dims() || filter.split || filter.found || filter.name);
  for (const key of ["kind", "split", "found", "name"]) if (get(key) && get(key) !== document.activeElement) get(key).value = filter[key];
  for (const chip of get("classes").querySelectorAll("button")) {
    chip.setAttribute("aria-pressed", String(Number(chip.dataset.label) === filter.label));
  }
}

// The grid

function marks(entry) {
  const grades = entry[field.kinds].map(k => settings.kinds[k]).filter(([, grade]) => grade !== "note");
  const shown = grades.map(([name, grade]) => make("span", name, `mark ${grade}`));
  if (entry[field.faults] && !grades.some(([, grade]) => grade === "error")) shown.push(make("span", "faulty", "mark error"));
  return shown.slice(0, 4);
}

function card(n) {
  const entry = pictures[n], link = make("a"), frame = make("span", "", "frame"), image = make("img"), name = make("span", "", "name");
  link.href = address(n, null);
  image.loading = "lazy";
  image.alt = "";
  [image.width, image.height] = [entry[field.thumbWidth], entry[field.thumbHeight]];
  image.src = `thumbnails/${entry[field.file]}.jpg`;
  frame.append(image);
  name.append(make("span", entry[field.name]), ...marks(entry));
  link.append(frame, name);
  return link;
}

function drawMore() {
  get("grid").append(...matching.slice(drawn, drawn + DRAWN).map(card));
  drawn = Math.min(drawn + DRAWN, matching.length);
}

function nearEnd() {
  return get("viewer").hidden && drawn < matching.length && get("end").getBoundingClientRect().top < innerHeight + 1200;
}

function drawGrid() {
  const key = address(null, null) + pictures.length;
  if (key === gridOf) return;
  gridOf = key;
  get("grid").replaceChildren();
  drawn = 0;
  if (!matching.length && complete) get("grid").append(make("p", "No picture has all that.", "quiet"));
  do drawMore(); while (nearEnd());
}

// One picture

async function show(n, segmentId) {
  const entry = pictures[n], chunk = Math.floor(n / settings.chunk);
  const wanted = [];
  if (!maps.has(entry[field.file])) wanted.push(load(`maps/${entry[field.file]}.js`));
  if (!found.has(chunk)) wanted.push(load(`data/found-${chunk}.js`));
  await Promise.all(wanted);
  if (open !== n) return; // the next one was asked for meanwhile
  if (current?.n !== n) prepare(n, entry, maps.get(entry[field.file]));
  for (const file of [...maps.keys()].slice(0, -KEPT)) if (file !== entry[field.file]) maps.delete(file);
  current.chosen = segmentId === null ? 0 : current.segments.findIndex(s => s[row.id] === segmentId) + 1;
  hovered = 0;
  listFaults(entry, segmentId);
  listSegments();
  paint();
  const at = matching.indexOf(n);
  const where = at < 0 ? "not among the chosen" : `${number(at + 1)} of ${number(matching.length)}`;
  get("position").textContent = where;
  for (const near of [matching[at + 1], matching[at - 1]]) ahead(near);
}

function ahead(n) {
  const file = n === undefined ? null : pictures[n][field.file];
  if (file && !maps.has(file)) load(`maps/${file}.js`).catch(() => {}); // it is told when the picture is opened
}

function listFaults(entry, segmentId) {
  const rows = found.get(Math.floor(current.n / settings.chunk))?.[current.n] ?? [];
  const isError = ([k]) => settings.kinds[k][1] === "error";
  // what check has words for is not told twice
  const own = rows.some(isError) ? [] : current.details.faults;
  const lines = rows.map(([k, id, message]) => {
    const line = make("li"), [name, grade] = settings.kinds[k], link = make(id === null ? "span" : "a", message);
    if (id !== null) link.href = address(current.n, id);
    line.append(make("span", grade, `grade ${grade}`), ` ${name}: `, link);
    if (id !== null && id === segmentId) line.style.fontWeight = 600;
    return line;
  });
  lines.push(...own.map(message => make("li", message)));
  if (!current.details.map) lines.push(make("li", "There is no map to show."));
  if (!current.details.picture) lines.push(make("li", "There is no picture to show."));
  get("faults").replaceChildren(...lines);
  get("faults").hidden = !lines.length;
  get("faults").classList.toggle("mild", lines.length === rows.length && rows.every(([k]) => settings.kinds[k][1] === "note"));
}

function listSegments() {
  const lines = current.segments.map((segment, i) => {
    const line = make("tr"), name = make("th"), swatch = make("span", "", settings.classes[segment[row.label]][1] ? "swatch" : "swatch stuff");
    const color = segment[row.color];
    swatch.style.background = `rgb(${color & 255} ${color >> 8 & 255} ${color >> 16})`;
    name.append(swatch, nameOf(i + 1), ...marksOf(segment).flatMap(([mark, grade]) => [" ", make("span", mark, `mark ${grade}`)]));
    line.append(name, make("td", number(segment[row.area])), make("td", share(segment[row.area])));
    line.title = describe(i + 1);
    line.tabIndex = 0;
    line.classList.toggle("dim", dims() && !codeMatches(segmentCode(segment)));
    line.onclick = () => choose(i + 1);
    line.onkeydown = event => { if (event.key === "Enter") choose(i + 1); };
    line.onmouseenter = () => point(i + 1);
    line.onmouseleave = () => point(0);
    return line;
  });
  get("segments").tBodies[0].replaceChildren(...lines);
  get("segments").hidden = !lines.length;
}

const choose = place => turn(open, place && place !== current.chosen ? current.segments[place - 1][row.id] : null);

function placeAt(event) {
  const box = get("stage").getBoundingClientRect();
  const x = Math.floor((event.clientX - box.left) / box.width * current.width), y = Math.floor((event.clientY - box.top) / box.height * current.height);
  return x < 0 || y < 0 || x >= current.width || y >= current.height ? 0 : current.places[y * current.width + x];
}

get("stage").onpointermove = event => {
  if (!current?.details.map) return;
  const box = get("stage").getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top, tip = get("tip");
  const place = placeAt(event);
  point(place);
  tip.textContent = describe(place);
  tip.hidden = false;
  tip.style.left = x < box.width / 2 ? `${x + 14}px` : "auto";
  tip.style.right = x < box.width / 2 ? "auto" : `${box.width - x + 10}px`;
  tip.style.top = y < box.height / 2 ? `${y + 16}px` : "auto";
  tip.style.bottom = y < box.height / 2 ? "auto" : `${box.height - y + 10}px`;
};
get("stage").onpointerleave = () => { get("tip").hidden = true; if (current) point(0); };
get("stage").onclick = event => { if (current?.details.map) choose(placeAt(event)); };

// What follows the address

async function follow() {
  const wanted = readAddress(), known = wanted.picture !== null && wanted.picture < settings.pictures;
  applyFilter();
  if (known && open === null) gridScroll = scrollY;
  const turned = known ? open !== wanted.picture : open !== null;
  open = known ? wanted.picture : null;
  get("viewer").hidden = !known;
  get("grid").hidden = known;
  document.querySelector("main").classList.toggle("viewing", known); // the filters go below the picture
  if (known && pictures[open]) {
    try { await show(open, wanted.segment); } catch (error) { complain(error); }
  } else if (known) {
    get("title").textContent = "Loading …";
  } else {
    current = null;
    drawGrid();
  }
  if (turned) scrollTo(0, known ? 0 : gridScroll);
}

function step(by) {
  const at = matching.indexOf(open), next = at < 0 ? matching[0] : matching[at + by];
  if (next !== undefined) turn(next, null);
}

function listFindings(details) {
  const kind = Number(details.dataset.kind), rows = kinds.get(kind), list = details.querySelector("ul");
  const from = list.children.length;
  list.append(...rows.slice(from, from + LISTED).map(([n, segment, place, message]) => {
    const line = make("li"), link = make(n < 0 ? "span" : "a", place || "data set");
    if (n >= 0) link.href = address(n, segment, {label: null, found: String(kind)});
    line.append(link, ` ${message}`);
    return line;
  }));
  details.querySelector(".more").hidden = list.children.length >= rows.length;
}

for (const details of document.querySelectorAll(".found")) {
  details.ontoggle = async () => {
    if (!details.open || kinds.has(Number(details.dataset.kind))) return;
    try {
      await load(`data/kind-${details.dataset.kind}.js`);
      listFindings(details);
    } catch (error) { complain(error); }
  };
  details.querySelector(".more").onclick = () => listFindings(details);
}
for (const chip of get("classes").querySelectorAll("button")) {
  const label = Number(chip.dataset.label);
  chip.onclick = () => go(open, null, {...filter, label: filter.label === label ? null : label});
}
for (const key of ["kind", "split", "found"]) if (get(key)) get(key).onchange = () => go(open, null, {...filter, [key]: get(key).value});
get("name").oninput = () => { filter = {...filter, name: get("name").value}; turn(open, null); };
get("reset").onclick = () => go(open, null, {label: null});
get("back").onclick = () => go(null, null);
get("previous").onclick = () => step(-1);
get("next").onclick = () => step(1);
get("map-on").onchange = () => { get("fill").hidden = !get("map-on").checked; };
get("borders-on").onchange = () => { if (current) outline(); };
const setOpacity = () => { get("fill").style.opacity = get("opacity").value / 100; };
get("opacity").oninput = setOpacity;
document.onkeydown = event => {
  if (get("viewer").hidden || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input:not([type=checkbox])")) return;
  const keys = {
    ArrowLeft: () => step(-1), ArrowRight: () => step(1), Escape: () => get("back").click(),
    m: () => get("map-on").click(), b: () => get("borders-on").click(),
  };
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
};
addEventListener("hashchange", follow);
new IntersectionObserver(() => { while (nearEnd()) drawMore(); }, {rootMargin: "1200px"}).observe(get("end"));
addEventListener("scroll", () => { if (nearEnd()) drawMore(); }, {passive: true});

(async () => {
  setOpacity();
  if (innerWidth < 560) get("classes").open = false;
  try {
    for (let chunk = 0; chunk * settings.chunk < settings.pictures; chunk++) {
      await load(`data/pictures-${chunk}.js`);
      complete = (chunk + 1) * settings.chunk >= settings.pictures;
      if (open !== null && current) applyFilter(); // what is looked at stays
      else if (chunk === 0 || complete || open !== null) await follow();
      else applyFilter();
    }
  } catch (error) { complain(error); }
})();
