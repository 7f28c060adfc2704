"use strict";
// The catalog is searched as one types, and a source that is linked to is opened.
(() => {
  const search = document.getElementById("search");
  const rows = [...document.querySelectorAll("#catalog tbody tr")];
  const shown = document.getElementById("shown");

  function find() {
    const words = search.elements.words.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    rows.forEach((row) => {
      const text = row.dataset.text.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      if (!row.hidden) count += 1;
    });
    shown.textContent = `${count} of ${rows.length} shown`;
  }

  function open() {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (!target) return;
    const details = target.querySelector("details");
    if (details) details.open = true;
    target.scrollIntoView();
  }

  search.addEventListener("input", find);
  search.addEventListener("submit", (event) => {
    event.preventDefault();
    const first = rows.find((row) => !row.hidden);
    const link = first && first.querySelector("a");
    if (link) link.click();
  });
  search.hidden = false;
  window.addEventListener("hashchange", open);
  open();
})();
