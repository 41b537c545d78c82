// The browser of targets.

const CHANGES = ["removed", "relabelled"];
const methods = [...new Set(found.targets.flatMap((t) => t.searches.map((s) => s.method)))];

function searchOf(target, change, method = byId("by-method").value) {
  return target.searches.find((s) => s.change === change && s.method === method);
}

// A size for the eye; sorting takes censored targets for larger than any.
function sizeText(search) {
  if (!search) return "";
  return search.k === null ? `> ${search.largest}` : String(search.k);
}

function sizeValue(search) {
  if (!search) return null;
  return search.k === null ? 1e9 + search.largest : search.k;
}

function sizeColumn(change) {
  return {
    name: change,
    text: `k ${change}`,
    value: (t) => sizeValue(searchOf(t, change)),
    draw: (cell, t) => node(cell, "span", sizeText(searchOf(t, change))),
  };
}

const targetColumns = [
  {
    name: "target", text: "Target", value: (t) => t.target,
    draw: (cell, t) => {
      thumb(cell, found.targets.indexOf(t), 28, `target ${t.target}`);
      node(cell, "span", ` ${t.target}`);
    },
  },
  {
    name: "class", text: "Class", kind: "text", value: (t) => found.classes[t.class],
    draw: (cell, t) => node(cell, "span", found.classes[t.class], { title: found.classes[t.class] }),
  },
  {
    name: "source", text: "File", kind: "text", value: (t) => t.source,
    draw: (cell, t) => node(cell, "span", fileName(t.source), { title: t.source }),
  },
  {
    name: "margin", text: "Margin", value: (t) => t.mean[0],
    draw: (cell, t) => node(cell, "span", signed(t.mean[0]), t.right ? {} : { class: "against", title: "wrong on all data" }),
  },
  ...CHANGES.map(sizeColumn),
];

function isTargetShown(target) {
  const kind = byId("by-class").value, k = byId("by-k").value, margin = byId("by-margin").value;
  const text = byId("by-text").value.toLowerCase();
  const [removed, relabelled] = CHANGES.map((change) => searchOf(target, change));
  const isDone = (search) => Boolean(search) && search.k !== null;
  const holds = {
    "": true,
    flipped: target.right && isDone(removed),
    censored: target.right && removed && removed.k === null,
    relabelled: target.right && isDone(relabelled),
    wrong: !target.right,
    repaired: !target.right && (isDone(removed) || isDone(relabelled)),
    searched: target.searches.length > 0,
  };
  return holds[byId("by-state").value]
    && (kind === "" || target.class === Number(kind))
    && (k === "" || (isDone(removed) && removed.k <= Number(k)))
    && (margin === "" || target.mean[0] <= Number(margin))
    && (text === "" || `${target.target} ${target.source}`.toLowerCase().includes(text));
}

function verdictText(s) {
  const interval = s.mean[1] === null ? "" : ` [${signed(s.mean[1])}, ${signed(s.mean[2])}]`;
  const models = `mean margin ${signed(s.mean[0])}${interval}, ${share(s.accuracy)} of the models right`;
  const after = `clear after ${s.models} models`;
  if (s.k !== null) {
    const what = s.repair ? "right" : "wrong";
    return `Verified: with ${images(s.k)} ${s.change}, new models are ${what} (${models}; ${after}).`;
  }
  const censored = `Censored: no number of images up to ${s.largest} was verified.`;
  if (s.mean[0] === null) return censored;
  const first = `margin ${signed(s.mean[0])} of one model, too ${s.repair ? "small" : "large"} for a verification to be likely`;
  const known = s.models > 1 ? `${models}; ${after}` : first;
  return `${censored} With ${images(s.tried)} ${s.change}: ${s.finished ? known : `${models}; the budget of models ran out`}.`;
}

// What one search found: in words, as a chart, and the images that it changed.
function drawFound(parent, t, s) {
  const box = node(parent, "div", null, { id: `found-${s.change}` });
  node(box, "h4", `${s.repair ? "Repair: i" : "I"}mages ${s.change}, by ${s.method}`);
  node(box, "p", verdictText(s), { class: "verdict" });
  box.append(drawSearch(s, t.mean, `Margin of target ${t.target} against the number of training images ${s.change}`));
  const shown = s.k === null ? s.examples.slice(0, 10) : s.examples;
  const more = s.tried > shown.length ? `, the first ${shown.length}` : "";
  node(box, "p", `The ${images(s.tried)} ${s.change}${more}:`);
  drawPictures(box, shown.map((example) => exampleItem(example)));
}

const CHART = "In the charts: the line is what the datamodel predicts for removals. Filled: models on all data (at 0), and "
  + "the models of the verification, with intervals. Hollow: the first model of the search, at the largest number of images, "
  + "which is no part of any claim.";

function drawSearches(parent, t) {
  node(parent, "h4", t.right ? "What makes it wrong" : "What makes it right");
  const select = node(node(parent, "label", "Method "), "select", null, { id: "search-method" });
  const known = [...new Set(t.searches.map((s) => s.method))];
  for (const method of known) {
    const sizes = CHANGES.map((change) => searchOf(t, change, method)).filter(Boolean);
    const text = sizes.map((s) => `${s.k === null ? "censored" : s.k} ${s.change}`).join(", ");
    node(select, "option", `${method}: ${text}`, { value: method });
  }
  select.value = known.includes(byId("by-method").value) ? byId("by-method").value : known[0];
  const box = node(parent, "div");
  const draw = () => {
    box.replaceChildren();
    for (const change of CHANGES) {
      const search = searchOf(t, change, select.value);
      if (search) drawFound(box, t, search);
    }
  };
  select.addEventListener("change", draw);
  draw();
  node(parent, "p", CHART, { class: "soft" });
  drawTable(parent, t);
}

function drawTable(parent, t) {
  const folded = node(parent, "details");
  node(folded, "summary", "All searches of this target");
  const table = node(node(folded, "div", null, { class: "scroll" }), "table");
  const head = node(node(table, "thead"), "tr");
  for (const text of ["search", "k", "mean margin", "interval", "models of the verification", "trained in all"]) {
    node(head, "th", text, { scope: "col" });
  }
  const body = node(table, "tbody");
  for (const s of t.searches) {
    const row = node(body, "tr");
    const ends = s.mean[1] === null ? "" : `${signed(s.mean[1])} to ${signed(s.mean[2])}`;
    const cells = [`${s.method}, ${s.change}`, sizeText(s), signed(s.mean[0]), ends, s.models, s.trained];
    for (const text of cells) node(row, "td", text);
  }
}

function drawTarget(box, t) {
  const top = node(box, "div", null, { class: "top" });
  thumb(top, found.targets.indexOf(t), 112, `target ${t.target}, ${found.classes[t.class]}`);
  const about = node(top, "div");
  node(about, "h3", `Target ${t.target}: ${found.classes[t.class]}`);
  node(about, "p", t.source, { class: "soft" });
  node(about, "p", `${share(t.accuracy)} of the models on all data are right; mean margin ${signed(t.mean[0])}.`, { id: "base" });
  box.append(drawMargins(t.margins, `Margins of ${t.margins.length} models on all data, mean ${signed(t.mean[0])}`));
  if (t.searches.length) drawSearches(box, t);
  else if (t.right) node(box, "p", "Not searched.");
  else node(box, "p", "Models on all data get it wrong. It was not searched; experiments.repair finds what would make it right.");
  const supporters = t.supporters.map((p) => exampleItem(...p)), opposers = t.opposers.map((p) => exampleItem(...p));
  drawWeighted(box, "Training images that support it most (weights in logits)", supporters);
  drawWeighted(box, "Training images that oppose it most", opposers);
}

// Filters, list and pane; at first the target that the fewest removals flip is shown.
function beginTargets() {
  for (const method of methods) node(byId("by-method"), "option", method, { value: method });
  found.classes.forEach((name, i) => node(byId("by-class"), "option", name, { value: i }));
  const list = makeList({
    name: "targets",
    kind: "target",
    things: found.targets,
    total: found.num_targets,
    columns: targetColumns,
    sort: "removed",
    number: (t) => t.target,
    isShown: isTargetShown,
    draw: drawTarget,
  });
  const flipped = found.targets.filter((t) => t.right && searchOf(t, "removed")?.k != null);
  flipped.sort((a, b) => searchOf(a, "removed").k - searchOf(b, "removed").k);
  const searched = found.targets.filter((t) => t.searches.length);
  list.show(flipped[0] || searched[0] || found.targets[0]);
  return list;
}
