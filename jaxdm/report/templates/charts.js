// Small charts, drawn as SVG.

const SVG = "http://www.w3.org/2000/svg";

// An SVG element with attributes and, for text, its content.
function svgNode(parent, name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

// A linear scale from values to pixels.
function scale(low, high, from, to) {
  const span = high - low || 1;
  return (value) => from + ((value - low) / span) * (to - from);
}

// At most `most` + 1 round numbers in [low, high]; whole ones if asked.
function ticks(low, high, most, whole) {
  const raw = (high - low || 1) / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  let step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + 1e-9; i++) found.push(i * step);
  return found;
}

function tickText(value) {
  return Number.isInteger(value) ? String(value) : value.toFixed(1);
}

// As wide as the place for it, so that text keeps its size on narrow screens.
function chartWidth() {
  return Math.max(280, Math.min(520, byId("targets-detail").clientWidth - 34));
}

// Every model's margin as a dot above one line.
function drawMargins(margins, label) {
  const width = chartWidth(), height = 80, base = 48;
  const svg = svgNode(null, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const known = margins.filter((margin) => margin !== null);
  const low = Math.min(0, ...known), high = Math.max(0, ...known);
  const x = scale(low, high, 14, width - 14);
  svgNode(svg, "line", { class: "axis", x1: 8, x2: width - 8, y1: base, y2: base });
  svgNode(svg, "line", { class: "zero", x1: x(0), x2: x(0), y1: 6, y2: base });
  for (const tick of ticks(low, high, 6, false)) {
    svgNode(svg, "text", { x: x(tick), y: base + 14, "text-anchor": "middle" }, tickText(tick));
  }
  svgNode(svg, "text", { x: width / 2, y: height - 6, "text-anchor": "middle" }, "margin (right of 0: the model is right)");
  const taken = [];
  for (const margin of [...known].sort((a, b) => a - b)) {
    const place = x(margin);
    let row = 0;
    while (taken[row] !== undefined && place - taken[row] < 8 && row < 4) row++;
    taken[row] = place;
    svgNode(svg, "circle", { class: "dot", cx: place, cy: base - 7 - 8 * row, r: 4 });
  }
  return svg;
}

// A mean with its interval; `kind` is the class of the mark.
function drawPoint(svg, x, y, at, mean, low, high, kind, title) {
  const group = svgNode(svg, "g", {});
  svgNode(group, "title", {}, title);
  if (low !== null && high !== null) {
    svgNode(group, "line", { class: "mark", x1: x(at), x2: x(at), y1: y(low), y2: y(high) });
    for (const end of [low, high]) {
      svgNode(group, "line", { class: "mark", x1: x(at) - 4, x2: x(at) + 4, y1: y(end), y2: y(end) });
    }
  }
  svgNode(group, "circle", { class: kind, cx: x(at), cy: y(mean), r: 4.5 });
}

// Margins against the number of changed examples: predictions as a line, models as points.
function drawSearch(search, before, label) {
  const width = chartWidth(), height = 250, left = 44, right = width - 12, top = 12, bottom = height - 42;
  const svg = svgNode(null, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const curve = search.predicted || [];
  const [mean, low, high] = search.mean;
  const heights = [0, ...before, mean, low, high, search.largest_margin, ...curve.map((p) => p[1])];
  const known = heights.filter((value) => value !== null);
  const edge = (Math.max(...known) - Math.min(...known)) * 0.05 || 1;
  const from = Math.min(...known) - edge, to = Math.max(...known) + edge;
  const x = scale(0, search.largest, left + 8, right - 8), y = scale(from, to, bottom, top);
  for (const tick of ticks(from, to, 5, false)) {
    svgNode(svg, "line", { class: "axis", x1: left, x2: right, y1: y(tick), y2: y(tick) });
    svgNode(svg, "text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, tickText(tick));
  }
  for (const tick of ticks(0, search.largest, 6, true)) {
    svgNode(svg, "text", { x: x(tick), y: bottom + 15, "text-anchor": "middle" }, tickText(tick));
  }
  svgNode(svg, "line", { class: "zero", x1: left, x2: right, y1: y(0), y2: y(0) });
  svgNode(svg, "text", { x: (left + right) / 2, y: height - 8, "text-anchor": "middle" }, `training images ${search.change}`);
  svgNode(svg, "text", { transform: `translate(12 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, "margin");
  if (curve.length) {
    svgNode(svg, "polyline", { class: "curve", points: curve.map(([k, margin]) => `${x(k)},${y(margin)}`).join(" ") });
  }
  drawPoint(svg, x, y, 0, ...before, "mark", "models on all data");
  if (search.largest_margin !== null) {
    const title = `first model of the search, ${search.largest} ${search.change}`;
    drawPoint(svg, x, y, search.largest, search.largest_margin, null, null, "mark hollow", title);
  }
  if (low !== null) {  // One model verifies nothing.
    drawPoint(svg, x, y, search.tried, mean, low, high, "mark", `models of the verification, ${search.tried} ${search.change}`);
  }
  return svg;
}
