// Creates and changes elements. Content is always set as text, because names and messages are untrusted.

const SVG = "http://www.w3.org/2000/svg";

export function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

export function drawn(tag, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text) made.textContent = text;
  return made;
}

// Unchanged content is not touched, so that screen readers and selections keep their position.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setClass(node, className) {
  if (node.className !== className) node.className = className;
}

export function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

// Keeps one child for each item, by its key and in order; children that stay are the same elements.
export function keyed(parent, items, keyOf, make, update) {
  const keys = new Set(items.map(keyOf));
  const before = new Map();
  for (const child of [...parent.children]) {
    const { key } = child.dataset;
    if (key === undefined) continue;
    // Removed first, so that the others are not moved: moving an element takes its focus.
    if (keys.has(key)) before.set(key, child);
    else child.remove();
  }
  let place = before.values().next().value ?? null;
  for (const item of items) {
    const key = keyOf(item);
    let child = before.get(key);
    if (child === undefined) {
      child = make(item);
      child.dataset.key = key;
    }
    if (child === place) place = nextKeyed(place);
    else parent.insertBefore(child, place);
    update(child, item);
  }
}

function nextKeyed(node) {
  let next = node.nextElementSibling;
  while (next !== null && next.dataset.key === undefined) next = next.nextElementSibling;
  return next;
}
