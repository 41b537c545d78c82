// A list to filter, sort and choose from by mouse and keyboard, and a pane on what is chosen.
//
// Its elements are named after it: NAME-filters, NAME-count, NAME-list, NAME-head, NAME-body, NAME-detail.
//   kind: names one thing in the address of the page, as in #target=3
//   things: all that the list can show; number(thing) tells them apart
//   total: how many there are, more perhaps than the page has
//   columns: {name, text, value(thing), draw(cell, thing)}; a value of null comes last
//   sort: the name of the column that is sorted by at first
//   isShown(thing): whether the filters let it through
//   draw(pane, thing): fills the pane
function makeList({ name, kind, things, total, columns, sort, number, isShown, draw }) {
  const part = (id) => byId(`${name}-${id}`);
  let chosen = null, down = false;

  function compare(a, b) {
    const value = columns.find((c) => c.name === sort).value, x = value(a), y = value(b);
    if (x === y) return number(a) - number(b);
    if (x === null || y === null) return x === null ? 1 : -1;
    const order = typeof x === "string" ? x.localeCompare(y) : x - y;
    return down ? -order : order;
  }

  function drawHead() {
    part("head").replaceChildren();
    for (const column of columns) {
      const isSorted = sort === column.name;
      const order = isSorted ? (down ? "descending" : "ascending") : "none";
      const cell = node(part("head"), "th", null, { scope: "col", "aria-sort": order, class: column.kind || "" });
      const sign = isSorted ? (down ? "\u00a0\u25be" : "\u00a0\u25b4") : "";
      const button = node(cell, "button", column.text + sign, { type: "button" });
      button.addEventListener("click", () => {
        down = isSorted && !down;
        sort = column.name;
        drawRows();
        part("head").children[columns.indexOf(column)].firstChild.focus();
      });
    }
  }

  function drawRows() {
    drawHead();
    part("body").replaceChildren();
    const shown = things.filter(isShown).sort(compare);
    for (const thing of shown) {
      const row = node(part("body"), "tr", null, { tabindex: -1, "aria-selected": false, "data-number": number(thing) });
      for (const column of columns) column.draw(node(row, "td", null, { class: column.kind || "" }), thing);
      row.addEventListener("click", () => choose(thing));
    }
    const all = total > things.length ? `; the run has ${total}` : "";
    part("count").textContent = `${shown.length} of ${things.length} ${name}${all}`;
    mark();
  }

  // Marks the chosen row, which alone can be reached by Tab, and brings it into view.
  function mark() {
    const rows = [...part("body").children];
    const row = rows.find((one) => chosen && Number(one.dataset.number) === number(chosen));
    for (const one of rows) {
      one.setAttribute("aria-selected", one === row);
      one.tabIndex = one === (row || rows[0]) ? 0 : -1;
    }
    if (!row) return null;
    const list = part("list");
    const above = row.offsetTop - part("head").offsetHeight;
    const below = row.offsetTop + row.offsetHeight - list.clientHeight;
    list.scrollTop = Math.max(below, Math.min(above, list.scrollTop));
    return row;
  }

  // Shows a thing in the pane.
  function show(thing) {
    chosen = thing;
    part("detail").replaceChildren();
    draw(part("detail"), thing);
    return mark();
  }

  function choose(thing) {
    show(thing)?.focus({ preventScroll: true });
    history.replaceState(null, "", `#${kind}=${number(thing)}`);
  }

  // Shows what the address of the page names, if it is of this kind.
  function open() {
    const thing = things.find((one) => location.hash === `#${kind}=${number(one)}`);
    if (!thing) return;
    show(thing)?.focus({ preventScroll: true });
    part("detail").scrollIntoView();
  }

  function moveBy(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
    if (!(event.key in steps)) return;
    const rows = [...part("body").children];
    const at = rows.indexOf(document.activeElement.closest("tr"));
    const to = Math.min(Math.max(at + steps[event.key], 0), rows.length - 1);
    event.preventDefault();
    if (rows[to]) choose(things.find((one) => number(one) === Number(rows[to].dataset.number)));
  }

  for (const type of ["input", "change"]) part("filters").addEventListener(type, drawRows);
  part("filters").addEventListener("submit", (event) => event.preventDefault());
  part("body").addEventListener("keydown", moveBy);
  window.addEventListener("hashchange", open);
  drawRows();
  return { show, open };
}
