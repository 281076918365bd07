// Lays two of an example's images over each other, parted by a slider, and names the segments that are pointed at.
// A place is a segment's row plus one, as in a map's runs; place 0 is void.
const sideNames = {truth: "Ground truth", prediction: "Prediction"};
const lineColors = {truth: 0xff4de1ff, prediction: 0xffffe14d}; // yellow, light blue: ABGR

function placesOf(text, length) {
  const bytes = atob(text), places = new Uint32Array(length);
  let at = 0, position = 0;
  const number = () => {
    let value = 0, shift = 0, byte;
    do {
      byte = bytes.charCodeAt(at++);
      value += (byte & 127) * 2 ** shift;
      shift += 7;
    } while (byte & 128);
    return value;
  };
  while (at < bytes.length) {
    const place = number(), count = number();
    places.fill(place, position, position += count);
  }
  return places;
}

const hint = "Point at a segment, or tap it, to see what became of it.";

// As in the pictures of errors, the ground truth has a solid line and the prediction a dashed one: both show where they meet.
function outline(pixels, places, place, width, height, reach, color, dashed) {
  for (let y = 0, p = 0; y < height; y++) {
    for (let x = 0; x < width; x++, p++) {
      const inside = places[p] === place;
      if (dashed && (2 * x + 3 * y) % 20 >= 12) continue;
      if (x + 1 < width && inside !== (places[p + 1] === place) || y + 1 < height && inside !== (places[p + width] === place)) {
        for (let row = Math.max(0, y - reach + 1); row <= Math.min(height - 1, y + reach); row++) {
          pixels.fill(color, row * width + Math.max(0, x - reach + 1), row * width + Math.min(width, x + reach + 1));
        }
      }
    }
  }
}

function make(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

function comparison(article) {
  const compare = article.querySelector(".compare"), frame = compare.querySelector(".frame");
  const [left, right] = compare.querySelectorAll("select"), slider = compare.querySelector("input");
  const enlarge = compare.querySelector(".enlarge"), named = compare.querySelector(".pointed");
  const sources = [...article.querySelectorAll(".panels img")].map(image => image.src);
  const [width, height] = compare.dataset.size.split(" ").map(Number);
  const segments = JSON.parse(compare.dataset.segments);
  const under = make("img"), over = make("img", "over"), lines = make("canvas"), handle = make("i", "handle");
  Object.assign(lines, {width, height});
  under.draggable = over.draggable = false;
  under.alt = over.alt = "";
  frame.append(under, over, lines, handle);
  named.textContent = hint;
  let read = null, pointed = "{}";
  const maps = () => read ??= Object.fromEntries(Object.keys(sideNames).map(side => [side, placesOf(compare.dataset[side], width * height)]));

  let chosen = [];
  function choose(changed, other, before) {
    if (changed && changed.value === other.value) other.selectedIndex = before;
    [over.src, under.src] = [sources[left.selectedIndex], sources[right.selectedIndex]];
    chosen = [left.selectedIndex, right.selectedIndex];
  }
  choose();
  left.onchange = () => choose(left, right, chosen[0]);
  right.onchange = () => choose(right, left, chosen[1]);

  const slide = percent => {
    slider.value = percent;
    frame.style.setProperty("--at", `${slider.value}%`);
  };
  slider.oninput = () => slide(slider.value);
  slide(slider.value);

  // `found` has a place for each side that is spoken of; none clears.
  function show(found) {
    const key = JSON.stringify(found);
    if (key === pointed) return;
    pointed = key;
    const image = new ImageData(width, height), pixels = new Uint32Array(image.data.buffer);
    const thick = Math.max(1, Math.round(Math.max(width, height) / 400));
    for (const around of [true, false]) {
      for (const side of Object.keys(found).filter(side => found[side])) {
        const [reach, color] = around ? [2 * thick, 0xff000000] : [thick, lineColors[side]];
        outline(pixels, maps()[side], found[side], width, height, reach, color, !around && side === "prediction");
      }
    }
    lines.getContext("2d").putImageData(image, 0, 0);
    if (!Object.keys(found).length) named.textContent = hint;
    else named.replaceChildren(...Object.keys(found).map(side => {
      const line = make("span", side), [name, area, fate] = segments[side][found[side] - 1] ?? [];
      line.append(make("b", "", sideNames[side]), name === undefined ? "void" : `${name} · ${fate} · ${area.toLocaleString("en")} pixels`);
      return line;
    }));
  }

  function position(event) {
    const box = frame.getBoundingClientRect();
    const part = (value, start, size) => Math.min(1 - 1e-9, Math.max(0, (value - start) / size));
    return [part(event.clientX, box.left, box.width), part(event.clientY, box.top, box.height)];
  }
  function point(event) {
    const [x, y] = position(event);
    const at = Math.floor(y * height) * width + Math.floor(x * width);
    show({truth: maps().truth[at], prediction: maps().prediction[at]});
  }

  let start = null, dragging = false;
  frame.addEventListener("pointerdown", event => {
    [start, dragging] = [event.clientX, false];
  });
  frame.addEventListener("pointermove", event => {
    const large = frame.classList.contains("large"); // there a finger that moves, moves the picture
    if (start !== null && !dragging && !(large && event.pointerType === "touch") && Math.abs(event.clientX - start) > 4) {
      dragging = true;
      frame.setPointerCapture(event.pointerId);
    }
    if (dragging) slide(100 * position(event)[0]);
    else if (event.pointerType === "mouse") point(event);
  });
  frame.addEventListener("pointerup", event => {
    if (!dragging) point(event);
    start = null;
    dragging = false;
  });
  frame.addEventListener("pointercancel", () => { start = null; dragging = false; });
  frame.addEventListener("pointerleave", event => {
    if (event.pointerType === "mouse" && !dragging) show({});
    if (!dragging) start = null;
  });

  enlarge.onclick = () => {
    const large = frame.classList.toggle("large");
    enlarge.setAttribute("aria-pressed", large);
  };

  for (const row of article.querySelectorAll("tr[data-place]")) {
    const here = () => show({[row.dataset.side]: Number(row.dataset.place)});
    row.tabIndex = 0;
    for (const kind of ["mouseenter", "focus", "click"]) row.addEventListener(kind, here);
    for (const kind of ["mouseleave", "blur"]) row.addEventListener(kind, () => show({}));
  }
  compare.hidden = false;
  article.classList.add("live");
}

for (const article of document.querySelectorAll("article")) {
  if (article.querySelector(".compare")) comparison(article);
}
