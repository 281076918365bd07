// What helps with a whole page: copying, pausing what moves, unfolding what a link leads to or what is printed.
function button(text, className) {
  const made = document.createElement("button");
  Object.assign(made, {type: "button", textContent: text, className});
  return made;
}

function select(element) {
  const range = document.createRange();
  range.selectNodeContents(element);
  getSelection().removeAllRanges();
  getSelection().addRange(range);
}

for (const pre of document.querySelectorAll("pre.copied")) {
  const copy = button("Copy", "copy");
  copy.onclick = async () => {
    try {
      await navigator.clipboard.writeText(pre.innerText);
      copy.textContent = "Copied";
    } catch {
      // not every browser lets a page of a file reach the clipboard
      select(pre);
      copy.textContent = document.execCommand("copy") ? "Copied" : "Selected";
    }
    setTimeout(() => { copy.textContent = "Copy"; }, 2000);
  };
  const around = document.createElement("div");
  around.className = "copying";
  pre.before(around);
  around.append(pre, copy);
}

for (const figure of document.querySelectorAll("figure.progress")) {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const pause = button("", "pause");
  const set = paused => {
    figure.classList.toggle("paused", paused);
    figure.classList.toggle("playing", !paused);
    pause.textContent = paused ? "Play" : "Pause";
  };
  pause.onclick = () => set(!figure.classList.contains("paused"));
  figure.append(pause);
  set(still);
}

function unfold() {
  const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  const folded = target && target.querySelector(":scope > details");
  if (!folded) return;
  folded.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", unfold);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(folded => { folded.open = true; }));
unfold();
