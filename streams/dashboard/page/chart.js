// One chart: a line for each version over the last minutes, and a mark for each change of the model.

import { drawn, element, setAttribute } from "./dom.js";
import { clock, minute } from "./format.js";

const HEIGHT = 138;
const LEFT = 42;
const RIGHT = 10;
const TOP = 16;
const BOTTOM = 20;
const TICK_MS = 5 * 60 * 1000;
const MARK_LABEL_PIXELS = 26;
// The scale shrinks only when most of it is empty, so that it does not change with every update.
const SHRINK_BELOW = 0.4;
// How many lines are told apart by their dashes: classes l0 to l3 of model.css.
const LINE_KINDS = 4;

export class Chart {
  // `write` formats a value, `axis` one beside the scale; `top` fixes the end of the scale, `least` is its lowest
  // end.
  constructor({ name, title, unit = "", write, axis = write, top = null, least = 0 }, onCursor) {
    this.name = name;
    this.title = title;
    this.write = write;
    this.axis = axis;
    this.fixedTop = top;
    this.least = least;
    this.top = 0;
    this.width = 0;
    this.figure = element("figure", "chart");
    const caption = element("figcaption", "", title);
    if (unit) caption.append(element("span", "unit", ` ${unit}`));
    this.readout = element("span", "readout");
    this.readout.setAttribute("aria-hidden", "true");
    caption.append(this.readout);
    this.svg = drawn("svg", { role: "img", height: HEIGHT });
    this.scale = drawn("g", { class: "scale" });
    this.marks = drawn("g", { class: "marks" });
    this.lines = drawn("g", { class: "lines" });
    this.pointer = drawn("g", { class: "pointer" });
    this.svg.append(this.scale, this.marks, this.lines, this.pointer);
    this.figure.append(caption, this.svg);
    this.svg.addEventListener("pointermove", (event) => onCursor(this.placeAt(event)));
    this.svg.addEventListener("pointerleave", () => onCursor(null));
    new ResizeObserver(() => this.resize()).observe(this.figure);
  }

  resize() {
    const width = Math.floor(this.figure.clientWidth);
    if (width === this.width || width === 0) return;
    this.width = width;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.svg.setAttribute("width", width);
    this.draw();
  }

  show(model, times) {
    this.model = model;
    this.times = times;
    this.draw();
  }

  draw() {
    if (!this.model || !this.width) return;
    this.top = this.fixedTop ?? this.nextTop();
    this.drawScale();
    this.drawMarks();
    this.drawLines();
    setAttribute(this.svg, "aria-label", `${this.title}: ${this.describe("now", (version) => version.now?.[this.name])}`);
  }

  nextTop() {
    let highest = this.least;
    for (const version of this.model.versions)
      for (const value of version.lines[this.name]) if (value > highest) highest = value;
    const top = niceTop(highest || 1);
    return top > this.top || top < this.top * SHRINK_BELOW ? top : this.top;
  }

  x(ms) {
    const { at_ms: end, span_ms: span } = this.times;
    return LEFT + ((ms - end + span) / span) * (this.width - LEFT - RIGHT);
  }

  y(value) {
    return TOP + (1 - Math.min(value / this.top, 1)) * (HEIGHT - TOP - BOTTOM);
  }

  drawScale() {
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      const y = this.y(share * this.top);
      parts.push(drawn("line", { x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y }));
      parts.push(drawn("text", { x: LEFT - 6, y: y + 3.5, "text-anchor": "end" }, this.axis(share * this.top)));
    }
    const { at_ms: end, span_ms: span } = this.times;
    for (let tick = Math.ceil((end - span) / TICK_MS) * TICK_MS; tick <= end; tick += TICK_MS) {
      const x = this.x(tick);
      if (x < LEFT + 12 || x > this.width - RIGHT - 12) continue;
      parts.push(drawn("text", { x, y: HEIGHT - 5, "text-anchor": "middle" }, minute(tick)));
    }
    this.scale.replaceChildren(...parts);
  }

  drawMarks() {
    const { at_ms: end, span_ms: span } = this.times;
    const parts = [];
    let labelled = Infinity;
    for (const change of this.model.changes) {
      if (change.at_ms < end - span || change.at_ms > end) continue;
      const x = this.x(change.at_ms);
      parts.push(drawn("line", { x1: x, x2: x, y1: TOP - 4, y2: HEIGHT - BOTTOM }));
      if (labelled - x < MARK_LABEL_PIXELS) continue;
      labelled = x;
      const anchor = x > this.width - RIGHT - 12 ? "end" : "middle";
      parts.push(drawn("text", { x, y: TOP - 6, "text-anchor": anchor }, `r${change.revision}`));
    }
    this.marks.replaceChildren(...parts);
  }

  drawLines() {
    const parts = [];
    for (const version of this.model.versions) {
      const values = version.lines[this.name];
      const path = this.path(values);
      if (!path) continue;
      const kind = version.served_percent > 0 ? "" : " idle";
      parts.push(drawn("path", { class: `c${version.colour} l${parts.length % LINE_KINDS}${kind}`, d: path }));
    }
    if (!parts.length) {
      const middle = { x: (LEFT + this.width - RIGHT) / 2, y: (TOP + HEIGHT - BOTTOM) / 2 - 8 };
      parts.push(drawn("text", { ...middle, "text-anchor": "middle" }, "nothing counted"));
    }
    this.lines.replaceChildren(...parts);
  }

  // A gap where nothing was measured. A single point is a dot: the round cap of a line without length.
  path(values) {
    let path = "";
    let open = false;
    values.forEach((value, place) => {
      if (value === null) {
        open = false;
        return;
      }
      const at = `${this.x(this.timeOf(place)).toFixed(1)} ${this.y(value).toFixed(1)}`;
      path += open ? `L${at}` : `M${at}h0`;
      open = true;
    });
    return path;
  }

  timeOf(place) {
    return this.model.first_ms + place * this.times.window_ms;
  }

  placeAt(event) {
    if (!this.model) return null;
    const { at_ms: end, span_ms: span, window_ms: step } = this.times;
    const share = (event.clientX - this.svg.getBoundingClientRect().left - LEFT) / (this.width - LEFT - RIGHT);
    const place = Math.round((end - span + share * span - this.model.first_ms) / step);
    return Math.max(0, Math.min(place, this.model.versions[0] ? this.model.versions[0].lines[this.name].length - 1 : 0));
  }

  // Show the values of all versions at a position; null for the newest.
  point(place) {
    if (!this.model || !this.width) return;
    const parts = [];
    const values = [];
    if (place !== null) {
      const x = this.x(this.timeOf(place));
      parts.push(drawn("line", { x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }));
      for (const version of this.model.versions) {
        const value = version.lines[this.name][place];
        if (value === null || value === undefined) continue;
        parts.push(drawn("circle", { class: `c${version.colour}`, cx: x, cy: this.y(value), r: 3.5 }));
        const readout = element("span", `value c${version.colour}`, this.write(value));
        values.push(readout);
      }
    }
    this.pointer.replaceChildren(...parts);
    this.readout.replaceChildren(...values);
  }

  // As text, for all versions that have a value.
  describe(when, valueOf) {
    const values = this.model.versions
      .map((version) => [version.version || "no version", valueOf(version)])
      .filter(([, value]) => value !== null && value !== undefined)
      .map(([name, value]) => `${name} ${this.write(value)}`);
    return `${when}, ${values.join(", ") || "nothing"}`;
  }

  textAt(place) {
    return `${this.title} ${this.describe(clock(this.timeOf(place)), (version) => version.lines[this.name][place])}`;
  }
}

function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  for (const step of [1, 2, 4, 5, 10]) if (value <= step * power) return step * power;
  return 10 * power;
}
