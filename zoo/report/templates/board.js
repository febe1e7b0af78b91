"use strict";
// Sort a board by a column, filter its rows, and open what a link leads to. Without this script the page is a readable table.
const reveal = hash => {
  const target = document.getElementById(decodeURIComponent(hash.slice(1)));
  if (!target) return;
  for (let part = target.closest("details"); part; part = part.parentElement.closest("details")) part.open = true;
  target.scrollIntoView();
};
document.addEventListener("click", event => {
  const link = event.target.closest("a[href^='#']");
  if (link) setTimeout(reveal, 0, link.hash);  // after the browser went there
});
addEventListener("hashchange", () => reveal(location.hash));
const FACTS = ["family", "plugin", "weights"];
const SIZES = [["any size", 0, Infinity], ["up to 5 M", 0, 5], ["5 to 25 M", 5, 25], ["25 to 100 M", 25, 100], ["over 100 M", 100, Infinity]];
for (const table of document.querySelectorAll("table.board")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells], tools = document.querySelector(`[data-for="${table.id}"]`);
  const key = (row, i) => {
    const cell = row.cells[i], text = cell.dataset.sort ?? cell.textContent.trim();
    const m = /^-?\d*\.?\d+/.exec(text), unit = {k: 1e3, M: 1e6, G: 1e9, T: 1e12}[(/[kMGT]B?\b/.exec(text) || [""])[0][0]] || 1;
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
      table.classList.add("sorted");
      const rows = [...body.rows].map(row => [key(row, i), row]);
      rows.sort(([a], [b]) => {
        const x = typeof a === "number", y = typeof b === "number";
        if (x !== y) return x ? -1 : 1;  // rows without a number last
        return (a < b ? -1 : a > b ? 1 : 0) * (down && x ? -1 : down ? 1 : x ? 1 : -1);
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
  const low = Number(table.dataset.low), high = Number(table.dataset.high);
  const place = text => (8 + 224 * Math.min(1, Math.max(0, (text - low) / (high - low)))).toFixed(1);
  for (const row of body.rows) {
    if (!row.dataset.model) continue;  // a long board leaves its lower charts and details to the script
    const text = row.cells[3].textContent, numbers = (text.match(/-?\d*\.?\d+/g) || []).map(place);
    row.cells[4].innerHTML = `<svg class="interval" role="img" viewBox="0 0 240 22"><use/>` +
      (numbers[2] ? `<path d="M${numbers[1]} 11H${numbers[2]}"/>` : "") + (numbers[0] ? `<circle cx="${numbers[0]}" cy="11" r="4"/>` : "") + "</svg>";
    row.cells[4].firstChild.ariaLabel = heads[3].textContent + " " + text;
    row.cells[4].firstChild.firstChild.setAttribute("href", "#" + table.dataset.lines);
    const details = document.createElement("details"), summary = document.createElement("summary"), list = document.createElement("dl");
    summary.append(...row.cells[2].childNodes);
    const fill = text => text.replace("MODEL", () => row.dataset.model);
    for (const [name, text] of [["runs", row.dataset.runs], ["repeat", fill(table.dataset.repeat)], ["cite", fill(table.dataset.cite)]]) {
      const term = document.createElement("dt"), value = document.createElement("dd");
      term.textContent = name;
      value.textContent = text;
      list.append(term, value);
    }
    details.append(summary, list);
    row.cells[2].append(details);
  }
  const facts = new Map([...body.rows].filter(row => row.dataset.facts).map(row => [row, row.dataset.facts.split("|")]));
  const boxes = [], count = document.createElement("output");
  const show = () => {
    const wanted = tools.querySelector("[data-filter]").value.toLowerCase();
    let shown = 0;
    for (const row of body.rows) {
      const own = facts.get(row), name = row.querySelector("summary").textContent.toLowerCase();
      row.hidden = !name.includes(wanted) || (own && boxes.some(([box, test]) => box.value && !test(own, box.value)));
      shown += own && !row.hidden ? 1 : 0;
    }
    count.textContent = `${shown} of ${facts.size} models`;
  };
  const choose = (name, options, test) => {
    const label = document.createElement("label"), box = document.createElement("select");
    box.append(...options.map(([text, value]) => new Option(text, value)));
    label.append(name + " ", box);
    tools.append(label);
    boxes.push([box, test]);
    box.addEventListener("change", show);
  };
  FACTS.forEach((name, i) => {
    const values = [...new Set([...facts.values()].map(own => own[i]))].sort();
    if (values.length > 1) choose(name, [["all", ""], ...values.map(v => [v, v])], (own, value) => own[i] === value);
  });
  const sized = [...facts.values()].filter(own => own[3]).map(own => Number(own[3]));
  const used = SIZES.map((size, i) => [size[0], i || ""]).filter(([, i]) => !i || sized.some(m => m > SIZES[i][1] && m <= SIZES[i][2]));
  if (used.length > 2) choose("parameters", used, (own, i) => own[3] && Number(own[3]) > SIZES[i][1] && Number(own[3]) <= SIZES[i][2]);
  tools.querySelector("[data-filter]").addEventListener("input", show);
  tools.append(count);
  tools.hidden = false;
  show();
}
reveal(location.hash);
