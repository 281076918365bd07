// Says of a chart which values its curves have at the step that is pointed at, or that the arrow keys go to.
for (const chart of document.querySelectorAll("figure.chart")) {
  const svg = chart.querySelector("svg[role=img]"), readout = chart.querySelector(".readout");
  const curves = [...svg.querySelectorAll("g.curve")].map(curve => {
    const words = curve.dataset.steps.split(" "), values = curve.dataset.values.split(" ");
    const points = curve.querySelector("polyline").getAttribute("points").split(" ").map(pair => pair.split(",").map(Number));
    return {name: curve.dataset.name, points: points.map(([x, y], i) => ({x, y, step: words[i], value: values[i]}))};
  });
  const stops = [...new Set(curves.flatMap(curve => curve.points.map(point => point.x)))].sort((a, b) => a - b);
  const draw = tag => svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", tag));
  const cursor = draw("line"), dots = curves.map(() => draw("circle"));
  const box = svg.viewBox.baseVal;
  cursor.setAttribute("class", "cursor");
  cursor.setAttribute("y1", 10);
  cursor.setAttribute("y2", 208);
  dots.forEach(dot => { dot.setAttribute("class", "spot"); dot.setAttribute("r", 4); });
  let stop = -1;

  function show(index) {
    stop = index;
    const x = stops[stop];
    for (const element of [cursor, ...dots]) element.style.display = "none";
    readout.textContent = "";
    if (x === undefined) return;
    cursor.style.display = "";
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    const told = [];
    let step = "";
    curves.forEach((curve, i) => {
      const point = curve.points.find(point => point.x === x);
      if (!point) return;
      step = point.step;
      told.push(curves.length > 1 ? `${curve.name} ${point.value}` : point.value);
      dots[i].style.display = "";
      dots[i].setAttribute("cx", x);
      dots[i].setAttribute("cy", point.y);
    });
    readout.textContent = `step ${step}: ${told.join(", ")}`;
  }

  function point(event) {
    const area = svg.getBoundingClientRect(), x = (event.clientX - area.left) / area.width * box.width;
    show(stops.reduce((best, place, i) => Math.abs(place - x) < Math.abs(stops[best] - x) ? i : best, 0));
  }
  svg.tabIndex = 0;
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") show(-1); });
  svg.addEventListener("focus", () => { if (stop < 0) show(stops.length - 1); });
  svg.addEventListener("blur", () => show(-1));
  svg.addEventListener("keydown", event => {
    const to = {ArrowLeft: stop - 1, ArrowRight: stop + 1, Home: 0, End: stops.length - 1}[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(Math.min(stops.length - 1, Math.max(0, to)));
  });
  show(-1);
}
