"use strict";
// Sort by a column, filter rows by name, choose columns. Without this script the page is a readable table.
for (const table of document.querySelectorAll("table.board")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells], tools = document.querySelector(`[data-for="${table.id}"]`);
  const key = (row, i) => {
    const cell = row.cells[i], text = cell.dataset.sort ?? cell.textContent.trim();
    const m = /^-?\d*\.?\d+/.exec(text), unit = {k: 1e3, M: 1e6, G: 1e9, T: 1e12}[(/[kMGT]\b/.exec(text) || [])[0]] || 1;
    return m ? Number(m[0]) * unit : text.toLowerCase();
  };
  heads.forEach((head, i) => {
    if ("fixed" in head.dataset) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map(row => [key(row, i), row]);
      rows.sort(([a], [b]) => {
        const x = typeof a === "number", y = typeof b === "number";
        if (x !== y) return x ? -1 : 1;  // rows without a number last
        return (a < b ? -1 : a > b ? 1 : 0) * (down && x ? -1 : down ? 1 : x ? 1 : -1);
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
  tools.hidden = false;
  tools.querySelector("[data-filter]").addEventListener("input", event => {
    const wanted = event.target.value.toLowerCase();
    for (const row of body.rows) row.hidden = !row.cells[1].querySelector("summary").textContent.toLowerCase().includes(wanted);
  });
  const box = tools.querySelector("fieldset");
  heads.forEach((head, i) => {
    if (i < 2) return;
    const label = document.createElement("label"), input = document.createElement("input");
    input.type = "checkbox";
    input.checked = true;
    input.addEventListener("change", () => { for (const row of table.rows) row.cells[i].hidden = !input.checked; });
    label.append(input, " " + ("fixed" in head.dataset ? "interval" : head.textContent.trim()));
    box.append(label);
  });
}
