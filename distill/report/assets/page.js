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

  // As many rows as were shown before the fold are shown in any order, the student alone among them.
  const shownFirst = new Map(tables.map((table) => [table, table.tBodies[0].querySelectorAll("tr:not(.more)").length]));

  function fold(table) {
    const rows = [...table.tBodies[0].rows];
    const pinned = (row) => row.cells[0].classList.contains("alone");
    let room = shownFirst.get(table) - rows.filter(pinned).length;
    for (const row of rows) row.classList.toggle("more", !pinned(row) && room-- <= 0);
  }

  function tell() {
    const rows = tables.flatMap((table) => [...table.tBodies[0].rows]);
    const folded = (row) => row.classList.contains("more") && !row.closest(".unfolded");
    if (count) count.textContent = `${rows.filter((row) => !row.hidden && !folded(row)).length} of ${rows.length} rows`;
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
    fold(table);
    for (const head of heads) head.removeAttribute("aria-sort");
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
  }

  function filter(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    for (const table of tables) {
      for (const row of table.tBodies[0].rows) {
        row.hidden = !words.every((word) => [...row.cells].some((cell) => cell.textContent.toLowerCase().includes(word)));
      }
    }
    document.body.classList.toggle("unfolded", words.length > 0);  // what is looked for is not left in a fold
    tell();
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
      tell();
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
