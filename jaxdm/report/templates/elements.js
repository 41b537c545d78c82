"use strict";
// What all parts of the page are made of.

const found = JSON.parse(document.getElementById("page-data").textContent);
const byId = (id) => document.getElementById(id);

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
// Of a/b/c.png the last part, of an example that is no file its number: train[3].
const fileName = (source) => source.split("/").pop().replace(/^.*:(\w+\[\d+\])$/, "$1");

// A small picture from the sheet of all; nothing where inputs are no images.
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

// A picture with lines of text below it, in a list; `weight` is drawn first, `href` may be empty.
function drawItem(list, { cell, alt, href, weight, lines }) {
  const item = node(list, "li", null, { title: alt });
  const inside = href ? node(item, "a", null, { href }) : item;
  thumb(inside, cell, 56, alt);
  if (weight !== undefined) {
    node(inside, "span", signed(weight), { class: `name weight ${weight > 0 ? "for" : "against"}` });
  }
  for (const line of lines) node(inside, "span", line, { class: "name" });
}

function drawPictures(parent, items) {
  const list = node(parent, "ul", null, { class: found.cells ? "pictures" : "pictures wide" });
  for (const item of items) drawItem(list, item);
}

// Pictures with weights below a title, or a word that there are none.
function drawWeighted(parent, title, items) {
  node(parent, "h4", title);
  if (items.length) drawPictures(parent, items);
  else node(parent, "p", "None.", { class: "soft" });
}

// A training example as an item of `drawPictures`.
function exampleItem(example, weight) {
  const [kind, source, cell] = found.examples[example];
  return {
    cell,
    weight,
    alt: `training image ${example}, ${found.classes[kind]}, ${source}`,
    href: audited.has(example) ? `#example=${example}` : "",
    lines: [`${example} ${found.classes[kind]}`, fileName(source)],
  };
}

// A target as an item of `drawPictures`.
function targetItem(target, weight) {
  const place = found.targets.findIndex((t) => t.target === target), one = found.targets[place];
  return {
    cell: place,
    weight,
    alt: `target ${target}, ${found.classes[one.class]}, ${one.source}`,
    href: `#target=${target}`,
    lines: [`${target} ${found.classes[one.class]}`, fileName(one.source)],
  };
}

const audited = new Set(found.audit ? found.audit.shown.map((e) => e.example) : []);
