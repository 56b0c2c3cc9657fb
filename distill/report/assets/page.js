"use strict";
(() => {
  const tables = [...document.querySelectorAll("table")];
  const box = document.getElementById("filter");
  const count = document.getElementById("count");

  function key(row, column) {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
  }

  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  }

  // Rows without a value stay at the end, whichever way the others run; equal rows keep their order.
  function sort(table, column, down) {
    const heads = table.tHead.rows[0].cells;
    if (!(column in heads)) return;
    const numeric = heads[column].classList.contains("number");
    const empty = (row) => (numeric ? row.cells[column].dataset.value === undefined : key(row, column) === "–");
    const rows = [...table.tBodies[0].rows];
    const full = rows.filter((row) => !empty(row)).sort((a, b) => compare(key(a, column), key(b, column)) * (down ? -1 : 1));
    table.tBodies[0].append(...full, ...rows.filter(empty));
    for (const head of heads) head.removeAttribute("aria-sort");
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
  }

  function filter(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0, all = 0;
    for (const table of tables) {
      for (const row of table.tBodies[0].rows) {
        row.hidden = !words.every((word) => [...row.cells].some((cell) => cell.textContent.toLowerCase().includes(word)));
        all += 1;
        shown += row.hidden ? 0 : 1;
      }
    }
    if (count) count.textContent = `${shown} of ${all} rows`;
    document.body.classList.toggle("unfolded", words.length > 0);  // what is looked for is not left in a fold
  }

  for (const table of tables) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      head.firstElementChild.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const down = now ? now === "ascending" : head.classList.contains("number");
        sort(table, column, down);
      });
    });
  }
  box?.addEventListener("input", () => filter(box.value));

  for (const button of document.querySelectorAll(".unfold")) {
    const closed = button.textContent;
    button.addEventListener("click", () => {
      const open = button.previousElementSibling.classList.toggle("unfolded");
      button.setAttribute("aria-expanded", String(open));
      button.textContent = open ? "Fewer rows" : closed;
    });
  }

  const root = document.documentElement;
  const remember = (value) => { try { localStorage.setItem("distill-theme", value); } catch { /* not from every file:// */ } };
  const recall = () => { try { return localStorage.getItem("distill-theme"); } catch { return null; } };
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    remember(root.dataset.theme);
  });

  // A link can carry a view: #table=0&sort=1&down=1&filter=kd&theme=dark
  function view() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    const theme = wanted.get("theme") || recall();
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    const table = tables[Number(wanted.get("table") || 0)];
    if (table && wanted.has("sort")) sort(table, Number(wanted.get("sort")), wanted.get("down") === "1");
    if (box && wanted.has("filter")) box.value = wanted.get("filter");
    filter(box ? box.value : "");
  }
  addEventListener("hashchange", view);
  view();
})();
