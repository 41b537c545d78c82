// The browser of targets: a list to filter and sort, and what is known of the chosen one.

const found = JSON.parse(document.getElementById("targets-data").textContent);
const byId = (id) => document.getElementById(id);
const methods = [...new Set(found.targets.flatMap((t) => t.searches.map((s) => s.method)))];
const state = { sort: "k", down: false, chosen: null, search: null };

// An HTML element; text is never read as HTML.
function node(parent, name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (parent) parent.append(made);
  return made;
}

const signed = (value) => value === null ? "unknown" : (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(2);
const share = (value) => value === null ? "unknown" : `${Math.round(100 * value)} %`;
const images = (count) => `${count} image${count === 1 ? "" : "s"}`;
const fileName = (source) => source.split("/").pop();

// A small picture from the sprite; nothing where inputs are no images.
function thumb(parent, cell, size, alt) {
  const cells = found.cells;
  if (!cells) return;
  const zoom = size / Math.max(cells.width, cells.height);
  const made = node(parent, "span", null, { class: "thumb", role: "img", "aria-label": alt, title: alt });
  const width = cells.width * zoom, height = cells.height * zoom;
  made.style.width = `${width}px`;
  made.style.height = `${height}px`;
  made.style.backgroundSize = `${cells.columns * width}px ${cells.rows * height}px`;
  made.style.backgroundPosition =
    `${-(cell % cells.columns) * width}px ${-Math.floor(cell / cells.columns) * height}px`;
}

function searchOf(target, change) {
  return target.searches.find((s) => s.change === change && s.method === byId("by-method").value);
}

// A size for the eye; sorting takes censored targets for larger than any.
function sizeText(search) {
  if (!search) return "";
  return search.k === null ? `> ${search.largest}` : String(search.k);
}

function sizeValue(search) {
  if (!search) return Infinity;
  return search.k === null ? 1e9 + search.largest : search.k;
}

const columns = [
  { name: "target", text: "Target", value: (t) => t.target },
  { name: "class", text: "Class", value: (t) => found.classes[t.class] },
  { name: "source", text: "File", value: (t) => t.source },
  { name: "margin", text: "Margin", value: (t) => t.mean[0] },
  { name: "k", text: "k removed", value: (t) => sizeValue(searchOf(t, "removed")) },
  { name: "flips", text: "k relabelled", value: (t) => sizeValue(searchOf(t, "relabelled")) },
];

function isShown(target) {
  const removed = searchOf(target, "removed"), relabelled = searchOf(target, "relabelled");
  const kind = byId("by-class").value, k = byId("by-k").value, margin = byId("by-margin").value;
  const text = byId("by-text").value.toLowerCase();
  const holds = {
    "": true,
    flipped: removed && removed.k !== null,
    censored: removed && removed.k === null,
    relabelled: relabelled && relabelled.k !== null,
    wrong: !target.right,
    searched: target.searches.length > 0,
  };
  return holds[byId("by-state").value]
    && (kind === "" || target.class === Number(kind))
    && (k === "" || (removed && removed.k !== null && removed.k <= Number(k)))
    && (margin === "" || target.mean[0] <= Number(margin))
    && (text === "" || `${target.target} ${target.source}`.toLowerCase().includes(text));
}

function compare(a, b) {
  const value = columns.find((c) => c.name === state.sort).value;
  const [x, y] = state.down ? [value(b), value(a)] : [value(a), value(b)];
  if (x === y) return a.target - b.target;
  return typeof x === "string" ? x.localeCompare(y) : x - y;
}

function drawHead() {
  const head = byId("list-head");
  head.replaceChildren();
  for (const column of columns) {
    const chosen = state.sort === column.name;
    const order = chosen ? (state.down ? "descending" : "ascending") : "none";
    const cell = node(head, "th", null, { scope: "col", "aria-sort": order });
    const mark = chosen ? (state.down ? " \u25be" : " \u25b4") : "";
    const button = node(cell, "button", column.text + mark, { type: "button" });
    button.addEventListener("click", () => {
      state.down = chosen && !state.down;
      state.sort = column.name;
      drawList();
      byId("list-head").children[columns.indexOf(column)].firstChild.focus();
    });
  }
}

function drawList() {
  drawHead();
  const shown = found.targets.filter(isShown).sort(compare), body = byId("list-body");
  body.replaceChildren();
  for (const target of shown) {
    const row = node(body, "tr", null, { tabindex: -1, "aria-selected": false, "data-target": target.target });
    const first = node(row, "td");
    thumb(first, found.targets.indexOf(target), 28, `target ${target.target}`);
    node(first, "span", ` ${target.target}`);
    node(row, "td", found.classes[target.class], { title: found.classes[target.class] });
    node(row, "td", fileName(target.source), { title: target.source });
    node(row, "td", signed(target.mean[0]), target.right ? {} : { class: "against", title: "wrong on all data" });
    node(row, "td", sizeText(searchOf(target, "removed")));
    node(row, "td", sizeText(searchOf(target, "relabelled")));
    row.addEventListener("click", () => choose(target, true));
  }
  const all = found.num_targets > found.targets.length ? `; the run has ${found.num_targets}` : "";
  byId("count").textContent = `${shown.length} of ${found.targets.length} targets${all}`;
  mark(false);
}

// Marks the chosen row, which alone can be reached by Tab.
function mark(focus) {
  const rows = [...byId("list-body").children];
  const chosen = rows.find((row) => Number(row.dataset.target) === state.chosen?.target);
  for (const row of rows) {
    row.setAttribute("aria-selected", row === chosen);
    row.tabIndex = row === (chosen || rows[0]) ? 0 : -1;
  }
  if (!chosen) return;
  if (focus) chosen.focus();
  const list = byId("list"), head = byId("list-head").offsetHeight;
  const above = chosen.offsetTop - head, below = chosen.offsetTop + chosen.offsetHeight - list.clientHeight;
  list.scrollTop = Math.max(below, Math.min(above, list.scrollTop));
}

function choose(target, focus) {
  state.chosen = target;
  const same = target.searches.find((s) => state.search && s.change === state.search.change && s.method === state.search.method);
  state.search = same || searchOf(target, "removed") || target.searches[0] || null;
  mark(focus);
  drawDetail();
  history.replaceState(null, "", `#target=${target.target}`);
}

function moveBy(event) {
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
  if (!(event.key in steps)) return;
  const rows = [...byId("list-body").children];
  const at = rows.indexOf(document.activeElement.closest("tr"));
  const to = Math.min(Math.max(at + steps[event.key], 0), rows.length - 1);
  event.preventDefault();
  if (rows[to]) choose(found.targets.find((t) => t.target === Number(rows[to].dataset.target)), true);
}

function verdictText(s) {
  const interval = s.mean[1] === null ? "" : ` [${signed(s.mean[1])}, ${signed(s.mean[2])}]`;
  const models = `mean margin ${signed(s.mean[0])}${interval}, ${share(s.accuracy)} of the models right`;
  const after = `clear after ${s.models} models`;
  if (s.k !== null) {
    return `Verified: with ${images(s.k)} ${s.change}, new models are wrong (${models}; ${after}).`;
  }
  const censored = `Censored: no number of images up to ${s.largest} was verified.`;
  if (s.mean[0] === null) return censored;
  const first = `margin ${signed(s.mean[0])} of one model, too large for a proof to be likely`;
  const found = s.models > 1 ? `${models}; ${after}` : first;
  return `${censored} With ${images(s.tried)} ${s.change}: ${s.finished ? found : `${models}; the budget of models ran out`}.`;
}

function searchName(s) {
  return `${s.method}, ${s.change}`;
}

function drawExamples(parent, examples, weights) {
  const list = node(parent, "ul", null, { class: found.cells ? "examples" : "examples wide" });
  examples.forEach((example, place) => {
    const [kind, source, cell] = found.examples[example];
    const item = node(list, "li", null, { title: `${example}: ${source}` });
    thumb(item, cell, 56, `training image ${example}, ${found.classes[kind]}, ${source}`);
    if (weights) {
      node(item, "span", signed(weights[place]), { class: `name weight ${weights[place] > 0 ? "for" : "against"}` });
    }
    node(item, "span", `${example} ${found.classes[kind]}`, { class: "name" });
    node(item, "span", fileName(source), { class: "name" });
  });
}

function drawNeighbours(parent, pairs, title) {
  node(parent, "h4", title);
  if (!pairs.length) node(parent, "p", "None.", { class: "soft" });
  drawExamples(parent, pairs.map((p) => p[0]), pairs.map((p) => p[1]));
}

function drawChosenSearch(parent) {
  const t = state.chosen, s = state.search;
  parent.replaceChildren();
  node(parent, "p", verdictText(s), { id: "verdict" });
  parent.append(drawSearch(s, t.mean, `Margin of target ${t.target} against the number of training images ${s.change}`));
  const line = s.predicted ? "Line: what the datamodel predicts. " : "";
  node(parent, "p", `${line}Filled: models on all data (at 0) and the models of the proof, with intervals. `
    + `Hollow: the first model of the search, at ${s.largest} images, which is no part of any claim.`, { class: "soft" });
  const shown = s.k === null ? s.examples.slice(0, 10) : s.examples;
  const more = s.tried > shown.length ? `, the first ${shown.length}` : "";
  node(parent, "h4", `The ${s.tried} images ${s.change}${more}`);
  drawExamples(parent, shown, null);
}

function drawSearches(parent) {
  const t = state.chosen;
  node(parent, "h4", "What the searches found");
  const label = node(parent, "label", "Search ");
  const select = node(label, "select", null, { id: "search" });
  t.searches.forEach((s, i) => node(select, "option", `${searchName(s)}: ${s.k === null ? "censored" : `k = ${s.k}`}`, { value: i }));
  select.value = t.searches.indexOf(state.search);
  const box = node(parent, "div");
  select.addEventListener("change", () => {
    state.search = t.searches[Number(select.value)];
    drawChosenSearch(box);
  });
  drawChosenSearch(box);
  const folded = node(parent, "details");
  node(folded, "summary", "All searches of this target");
  const table = node(node(folded, "div", null, { class: "scroll" }), "table");
  const head = node(node(table, "thead"), "tr");
  for (const text of ["search", "k", "mean margin", "interval", "models of the proof", "trained in all"]) {
    node(head, "th", text, { scope: "col" });
  }
  const body = node(table, "tbody");
  for (const s of t.searches) {
    const row = node(body, "tr");
    const ends = s.mean[1] === null ? "" : `${signed(s.mean[1])} to ${signed(s.mean[2])}`;
    for (const text of [searchName(s), sizeText(s), signed(s.mean[0]), ends, s.models, s.trained]) node(row, "td", text);
  }
}

function drawDetail() {
  const t = state.chosen, box = byId("detail");
  box.replaceChildren();
  const top = node(box, "div", null, { class: "top" });
  thumb(top, found.targets.indexOf(t), 112, `target ${t.target}, ${found.classes[t.class]}`);
  const about = node(top, "div");
  node(about, "h3", `Target ${t.target}: ${found.classes[t.class]}`);
  node(about, "p", t.source, { class: "soft" });
  node(about, "p", `${share(t.accuracy)} of the models on all data are right; mean margin ${signed(t.mean[0])}.`, { id: "base" });
  box.append(drawMargins(t.margins, `Margins of ${t.margins.length} models on all data, mean ${signed(t.mean[0])}`));
  if (t.searches.length) drawSearches(box);
  else node(box, "p", t.right ? "Not searched." : "Models on all data get it wrong, so that it was not searched.");
  drawNeighbours(box, t.supporters, "Training images that support it most (weights in logits)");
  drawNeighbours(box, t.opposers, "Training images that speak against it most");
}

function begin() {
  for (const method of methods) node(byId("by-method"), "option", method, { value: method });
  found.classes.forEach((name, i) => node(byId("by-class"), "option", name, { value: i }));
  for (const kind of ["input", "change"]) byId("filters").addEventListener(kind, drawList);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("list-body").addEventListener("keydown", moveBy);
  const named = found.targets.find((t) => location.hash === `#target=${t.target}`);
  const flipped = found.targets.filter((t) => searchOf(t, "removed")?.k != null);
  flipped.sort((a, b) => searchOf(a, "removed").k - searchOf(b, "removed").k);
  const searched = found.targets.filter((t) => t.searches.length);
  state.chosen = named || flipped[0] || searched[0] || found.targets[0];
  state.search = searchOf(state.chosen, "removed") || state.chosen.searches[0] || null;
  drawList();
  drawDetail();
}

begin();
