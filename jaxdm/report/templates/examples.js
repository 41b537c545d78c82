// The browser of training examples, from an audit.

// A number of an example with its interval; null: unknown.
const numberOf = (e, name) => e.numbers[name];
const valueOf = (e, name) => numberOf(e, name) ? numberOf(e, name)[0] : null;
const plain = (value) => value === null ? "" : value.toFixed(2).replace("-", "\u2212");

// Numbers that have a column in the list, and its title.
const LISTED = {
  label_quality: "Label quality",
  memorisation: "Memorisation",
  support: "Support",
  opposition: "Opposition",
};

const exampleColumns = [
  {
    name: "example", text: "Example", value: (e) => e.example,
    draw: (cell, e) => {
      thumb(cell, found.examples[e.example][2], 28, `training image ${e.example}`);
      node(cell, "span", ` ${e.example}`);
    },
  },
  {
    name: "label", text: "Label", kind: "text", value: (e) => e.label,
    draw: (cell, e) => node(cell, "span", e.label, { title: e.label }),
  },
  {
    name: "suggested", text: "Suggested", kind: "text", value: (e) => e.suggested === e.label ? null : e.suggested,
    draw: (cell, e) => node(cell, "span", e.suggested === e.label ? "" : e.suggested, { title: e.suggested }),
  },
  ...Object.entries(LISTED).map(([name, text]) => ({
    name, text, value: (e) => valueOf(e, name), draw: (cell, e) => node(cell, "span", plain(valueOf(e, name))),
  })),
];

function isExampleShown(e) {
  const label = byId("example-label").value, text = byId("example-text").value.toLowerCase();
  const [quality, memorisation] = ["label_quality", "memorisation"].map((name) => numberOf(e, name));
  const isDoubted = e.suggested !== e.label;
  const holds = {
    "": true,
    doubted: isDoubted,
    suspicious: isDoubted && quality && quality[2] < 0.5,
    memorised: memorisation && memorisation[1] > found.audit.memorised,
    paired: e.stand_in !== null,
  };
  const limits = [["label_quality", -1], ["memorisation", 1], ["support", 1], ["opposition", 1]];
  const isWithin = ([name, side]) => {
    const limit = byId(`example-${name}`).value, value = valueOf(e, name);
    return limit === "" || (value !== null && side * value >= side * Number(limit));
  };
  return holds[byId("example-state").value]
    && (label === "" || e.label === label)
    && limits.every(isWithin)
    && (text === "" || `${e.example} ${found.examples[e.example][1]}`.toLowerCase().includes(text));
}

function drawNumbers(parent, e) {
  const table = node(node(parent, "div", null, { class: "scroll" }), "table", null, { class: "numbers" });
  const head = node(node(table, "thead"), "tr");
  for (const text of ["", "value", "95 % interval"]) node(head, "th", text, { scope: "col" });
  const body = node(table, "tbody");
  for (const [name, meaning] of found.audit.numbers) {
    const number = numberOf(e, name), row = node(body, "tr", null, { "data-name": name });
    const cell = node(row, "th", name.replaceAll("_", " "), { scope: "row" });
    node(cell, "span", meaning, { class: "soft" });
    node(row, "td", number ? plain(number[0]) : "unknown");
    node(row, "td", number && number[1] !== null ? `${plain(number[1])} to ${plain(number[2])}` : "");
  }
}

function drawExample(box, e) {
  const source = found.examples[e.example][1];
  const top = node(box, "div", null, { class: "top" });
  thumb(top, found.examples[e.example][2], 112, `training image ${e.example}, ${e.label}`);
  const about = node(top, "div");
  node(about, "h3", `Training example ${e.example}: ${e.label}`);
  node(about, "p", source, { class: "soft" });
  const agree = e.suggested === e.label ? "do not choose another label more often" : `choose another label most often: ${e.suggested}`;
  node(about, "p", `Models that were not trained on it ${agree}.`, { id: "suggestion" });
  node(about, "p", `Models: ${e.models_in} trained on it, ${e.models_out} not.`);
  drawNumbers(box, e);
  if (e.stand_in !== null) {
    node(box, "h4", "Stands in for, and the other way round");
    drawPictures(box, [exampleItem(e.stand_in)]);
  }
  const of = found.targets.length < found.num_targets ? `, of the ${found.targets.length} on this page` : "";
  drawWeighted(box, `Targets that it supports most${of} (weights in logits)`, e.supports.map((p) => targetItem(...p)));
  drawWeighted(box, `Targets that it opposes most${of}`, e.opposes.map((p) => targetItem(...p)));
}

// Filters, list and pane; at first the example with the lowest label quality is shown.
function beginExamples() {
  const shown = found.audit.shown;
  const labels = [...new Set(shown.map((e) => e.label))].sort();
  for (const label of labels) node(byId("example-label"), "option", label, { value: label });
  const list = makeList({
    name: "examples",
    kind: "example",
    things: shown,
    total: found.audit.total,
    columns: exampleColumns,
    sort: "label_quality",
    number: (e) => e.example,
    isShown: isExampleShown,
    draw: drawExample,
  });
  const qualities = shown.map((e) => valueOf(e, "label_quality") ?? Infinity);
  list.show(shown[qualities.indexOf(Math.min(...qualities))]);
  return list;
}
