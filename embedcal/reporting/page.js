"use strict";
// Everything here betters a page that can be read without it. Nothing is ever made of text by
// innerHTML: names come from files.
(() => {
  const root = document.documentElement;
  const status = document.getElementById("status");
  const say = (text) => { status.textContent = text; };

  const element = (name, attributes, text) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // Dark and light: the system's, until somebody chooses. Some browsers keep nothing for files.
  const toggle = document.getElementById("theme");
  const dark = () => root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  const show = () => { toggle.setAttribute("aria-pressed", String(dark())); };
  try { root.dataset.theme = localStorage.getItem("embedcal-theme") ?? ""; } catch { /* none kept */ }
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("embedcal-theme", root.dataset.theme); } catch { /* none kept */ }
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();

  // Sorting: a button in every heading; empty cells stay at the end either way.
  const words = new Intl.Collator("en", { numeric: true });
  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value === undefined) return cell.textContent.trim();
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  const compare = (a, b) => typeof a === "number" ? a - b : words.compare(a, b);
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    heads.forEach((head, column) => {
      const button = element("button", { type: "button", class: "sort" });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        const rows = [...body.rows];
        const numbers = rows.some((row) => typeof key(row, column) === "number");
        const first = numbers ? "descending" : "ascending";
        const second = numbers ? "ascending" : "descending";
        const order = before === first ? second : first;
        const sign = order === "ascending" ? 1 : -1;
        const keyed = rows.map((row) => [key(row, column), row]);
        keyed.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : sign * compare(a, b)));
        body.append(...keyed.map(([, row]) => row));
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", order);
        say(`sorted by ${button.textContent.trim()}, ${order}`);
      });
    });
  }

  // Copying a command.
  for (const block of document.querySelectorAll("pre[data-copy]")) {
    const button = element("button", { type: "button", class: "copy" }, "Copy");
    button.setAttribute("aria-label", `Copy: ${block.dataset.copy}`);
    block.before(button);
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(block.textContent.trim());
        button.textContent = "Copied";
        say("copied");
      } catch {
        getSelection().selectAllChildren(block);
        say("selected: copy it with the keyboard");
      }
    });
  }

  // Verdicts: a file for `embedcal annotate --file`.
  for (const form of document.querySelectorAll("form[data-fingerprint]")) {
    const button = form.querySelector("button[data-save]");
    const told = form.querySelector("[data-told]");
    const chosen = () => [...form.querySelectorAll("fieldset[data-attribute]")].flatMap((set) => {
      const radio = set.querySelector("input:checked");
      return radio && radio.value ? [[set.dataset.attribute, radio.value]] : [];
    });
    const count = () => {
      const n = chosen().length;
      told.textContent = n === 0 ? "No verdict yet." : n === 1 ? "1 verdict." : `${n} verdicts.`;
    };
    button.hidden = false;
    form.addEventListener("change", count);
    form.addEventListener("submit", (event) => event.preventDefault());
    button.addEventListener("click", () => {
      const verdicts = chosen();
      if (verdicts.length === 0) {
        told.textContent = "No verdict yet: judge at least one attribute first.";
        return;
      }
      const saved = {
        embedcal: "verdicts",
        format: 1,
        fingerprint: form.dataset.fingerprint,
        detector: form.dataset.detector,
        verdicts: Object.fromEntries(verdicts),
      };
      const blob = new Blob([JSON.stringify(saved, null, 1) + "\n"], { type: "application/json" });
      const link = element("a", { href: URL.createObjectURL(blob), download: "verdicts.json" });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      told.textContent = `Saved verdicts.json, ${verdicts.length} in it.`;
    });
    count();
  }

  // Paper has no buttons to open things with.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const each of opened) each.open = true;
  });
  addEventListener("afterprint", () => { for (const each of opened) each.open = false; });
})();
