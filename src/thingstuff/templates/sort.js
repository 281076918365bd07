// Sorts by the data-value of a column: numbers fall at first, names rise; what has no value stays last either way.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
    const body = table.tBodies[0], rows = [...body.rows];
    const value = row => row.cells[column].dataset.value;
    const numbers = column > 1;
    const before = heading.getAttribute("aria-sort");
    const rising = before ? before === "descending" : !numbers;
    headings.forEach(other => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
    rows.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = numbers ? Number(x) - Number(y) : x.localeCompare(y);
      return rising ? order : -order;
    });
    body.append(...rows);
  }));
}
