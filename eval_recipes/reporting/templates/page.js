"use strict";
// Makes column heads buttons that sort, and gives the radar's legend boxes that hide lines.

const collator = new Intl.Collator("en", { numeric: true });

function compareCells(a, b, sign) {
  if (a.dataset.value !== undefined && b.dataset.value !== undefined) {
    return sign * (Number(a.dataset.value) - Number(b.dataset.value));
  }
  if (a.dataset.value !== undefined) return -1; // what has no number goes last, either way
  if (b.dataset.value !== undefined) return 1;
  if (a.classList.contains("number")) return 0;
  return sign * collator.compare(a.textContent.trim(), b.textContent.trim());
}

function sortBy(table, head, place) {
  const isNumber = head.classList.contains("number");
  const first = isNumber ? "descending" : "ascending";
  const second = isNumber ? "ascending" : "descending";
  const order = head.getAttribute("aria-sort") === first ? second : first;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const rows = Array.from(table.tBodies[0].rows);
  rows.sort((a, b) => compareCells(a.cells[place], b.cells[place], sign));
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  Array.from(table.tHead.rows[0].cells).forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortBy(table, head, place));
    head.append(button);
  });
}

for (const item of document.querySelectorAll("[data-legend]")) {
  const line = document.querySelector(`[data-line="${item.dataset.legend}"]`);
  const box = document.createElement("input");
  const label = document.createElement("label");
  box.type = "checkbox";
  box.checked = true;
  box.addEventListener("change", () => line.classList.toggle("off", !box.checked));
  label.append(box, ...item.childNodes);
  item.append(label);
}
