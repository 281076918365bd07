// Following a segment back through the steps, and walking from step to step.
let followed = null, outlines = [];
const steps = all("section.step:not(#papers)"), links = new Map(all("#contents a").map(link => [link.hash.slice(1), link]));
const own = element => element.dataset.segments.split(" ").includes(String(followed.id));

// Yellow with a black rim, so that it shows on anything; a segment too small for the map gets a ring, and one without a pixel nothing.
function outline(place, thick) {
  const map = pixelsOf(get("places")), canvas = document.createElement("canvas");
  const [width, height] = [canvas.width, canvas.height] = [map.width, map.height], context = canvas.getContext("2d");
  const inside = new Uint8Array(width * height);
  map.colors.forEach((color, i) => { inside[i] = (color >> 16 | color & 0xff00) === place; });
  const edges = [];
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (!inside[i]) continue;
      const border = !x || !y || x === width - 1 || y === height - 1 || !inside[i - 1] || !inside[i + 1] || !inside[i - width] || !inside[i + width];
      if (border) edges.push(x, y);
    }
  }
  for (const [color, reach] of [["#000", thick + Math.max(1, thick / 2)], ["#ffe14d", thick]]) {
    context.fillStyle = context.strokeStyle = color;
    for (let i = 0; i < edges.length; i += 2) context.fillRect(edges[i] - reach / 2, edges[i + 1] - reach / 2, reach + 1, reach + 1);
    const middle = data.segments[place - 1].middle;
    if (edges.length || !middle) continue;
    const [x, y] = middle;
    context.lineWidth = reach;
    context.beginPath();
    context.arc(x * width, y * height, 8, 0, 2 * Math.PI);
    context.stroke();
  }
  return new Promise(done => canvas.toBlob(done)).then(blob => URL.createObjectURL(blob));
}

async function drawOutlines(segment) {
  await get("places").decode();
  const long = Math.max(get("places").naturalWidth, get("places").naturalHeight), place = data.segments.indexOf(segment) + 1;
  const made = await Promise.all([outline(place, long / 260), outline(place, long / 90)]);
  if (followed !== segment) return made.forEach(url => URL.revokeObjectURL(url));
  outlines.forEach(url => URL.revokeObjectURL(url));
  outlines = made;
  document.body.style.setProperty("--outline", `url("${made[0]}")`);
  document.body.style.setProperty("--outline-bold", `url("${made[1]}")`);
}

function treats(step) {
  return followed === null || Boolean(step.querySelector(".mine"));
}

function follow(segment) {
  followed = segment;
  document.body.classList.toggle("following", segment !== null);
  for (const element of all("[data-segments]")) {
    element.classList.toggle("mine", segment !== null && own(element));
    element.classList.toggle("other", segment !== null && !own(element));
    const folded = element.closest("details.more");
    if (segment !== null && folded && own(element)) folded.open = true;
  }
  for (const button of all(".chips button")) button.setAttribute("aria-pressed", segment !== null && own(button));
  for (const step of steps) {
    const note = step.querySelector("p.note"), found = segment && step.querySelector(`[data-note="${segment.id}"]`);
    note.hidden = !found;
    const text = found ? found.textContent : "";
    note.textContent = found && !text.startsWith(segment.name) ? `${segment.name}: ${text}` : text;
    links.get(step.id).classList.toggle("silent", !treats(step));
  }
  get("followed").hidden = segment === null;
  get("followed-text").textContent = segment === null ? "" : `Following ${segment.name} (segment ${segment.id}) through ${steps.filter(treats).length} of ${steps.length} steps`;
  document.body.style.removeProperty("--outline");
  document.body.style.removeProperty("--outline-bold");
  if (segment === null) return;
  drawOutlines(segment);
  if (segment.middle) for (const attention of attentions) attention.at(...segment.middle);
}

const segmentOf = id => data.segments.find(segment => segment.id === Number(id)) ?? null;

document.addEventListener("click", event => {
  const stage = event.target.closest(".stage.final"), button = event.target.closest("[data-follow]");
  const told = event.target.closest("tr[data-segments], .mark[data-segments]");
  if (button) follow(segmentOf(button.dataset.follow));
  else if (stage) follow(segmentUnder(stage, event));
  else if (told && !told.dataset.segments.includes(" ")) follow(segmentOf(told.dataset.segments));
});

// The step that is read: the last that begins above the middle of the window.
function current() {
  return steps.findLastIndex(step => step.getBoundingClientRect().top < innerHeight * .4);
}

function go(direction) {
  const from = current(), order = direction > 0 ? steps.slice(from + 1) : steps.slice(0, Math.max(0, from)).reverse();
  const next = order.find(treats);
  if (!next) return;
  next.scrollIntoView();
  next.querySelector("h3").focus({preventScroll: true});
}

get("before").addEventListener("click", () => go(-1));
get("after").addEventListener("click", () => go(1));
get("clear").addEventListener("click", () => follow(null));

document.addEventListener("keydown", event => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("select, input, textarea")) return;
  if (event.key === "Escape") follow(null);
  if (event.key === "n") go(1);
  if (event.key === "p") go(-1);
});

const narrow = matchMedia("(max-width: 900px)"), contents = document.querySelector("#contents details");

function fold() {
  contents.open = !narrow.matches;
}

fold();
narrow.addEventListener("change", fold);
contents.addEventListener("click", event => {
  if (event.target.closest("a") && narrow.matches) contents.open = false;
});

function mark() {
  const at = current();
  steps.forEach((step, n) => {
    if (n === at) links.get(step.id).setAttribute("aria-current", "step");
    else links.get(step.id).removeAttribute("aria-current");
  });
  get("where").textContent = at < 0 ? "" : `${at + 1}/${steps.length} · ${steps[at].querySelector("h3").lastChild.textContent.trim()}`;
}

let waiting = false;
addEventListener("scroll", () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; mark(); });
}, {passive: true});
mark();
