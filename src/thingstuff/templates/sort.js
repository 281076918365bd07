// Sorts by a column's data-value, or its text: numbers fall at first, words rise; what has no value stays last either way.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  headings.forEach((heading, column) => heading.querySelector("button")?.addEventListener("click", () => {
    const body = table.tBodies[0], rows = [...body.rows], words = heading.classList.contains("text");
    const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const missing = text => text === "" || !words && Number.isNaN(Number(text));
    const before = heading.getAttribute("aria-sort");
    const rising = before ? before === "descending" : words;
    headings.forEach(other => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
    rows.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (missing(x) || missing(y)) return missing(x) - missing(y);
      const order = words ? x.localeCompare(y) : Number(x) - Number(y);
      return rising ? order : -order;
    });
    body.append(...rows);
  }));
}
