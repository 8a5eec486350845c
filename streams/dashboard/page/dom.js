// Elements made and changed, only ever as text: names and messages come from outside.

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

// What does not change is not touched: readers and selections stay where they are.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setClass(node, className) {
  if (node.className !== className) node.className = className;
}

export function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

// One child for each item, by its key, in the items' order; children that stay are the same elements.
export function keyed(parent, items, keyOf, make, update) {
  const keys = new Set(items.map(keyOf));
  const before = new Map();
  for (const child of [...parent.children]) {
    const { key } = child.dataset;
    if (key === undefined) continue;
    // First, so that those which stay are not moved: that would take the focus from them.
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
