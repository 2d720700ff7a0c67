// The photo table: sort by any column, filter by name, show only what was left out.
"use strict";
(() => {
  const table = report.find("photo-table");
  if (!table) return;
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const compareText = new Intl.Collator(undefined, { numeric: true }).compare;

  function sort(column, descending) {
    const key = (row) => row.cells[column].dataset.sort;
    const rows = [...body.rows].map((row) => [row, key(row)]);
    rows.sort(([, a], [, b]) => {
      if (a === "" || b === "") return (a === "") - (b === ""); // unknown values stay last
      const order = column === 0 ? compareText(a, b) : Number(a) - Number(b);
      return descending ? -order : order;
    });
    body.append(...rows.map(([row]) => row));
    heads.forEach((head, i) => {
      if (i === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const before = head.getAttribute("aria-sort");
    sort(column, before ? before === "ascending" : column > 3 && column < 7); // big numbers first
  }));

  const [words, leftOut] = [report.find("photo-filter"), report.find("photo-left-out")]; // the box only where some are left out
  if (!words) return;
  function filter() {
    const wanted = words.value.trim().toLowerCase();
    for (const row of body.rows) {
      row.hidden = !row.dataset.name.toLowerCase().includes(wanted) ||
        (leftOut?.checked && !row.classList.contains("left-out"));
    }
  }
  words.addEventListener("input", filter);
  leftOut?.addEventListener("change", filter);
})();
