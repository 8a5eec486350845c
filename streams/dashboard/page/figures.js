// The charts as tables, a row for each minute: for screen readers and for reading exact values.

import { element, keyed, setText } from "./dom.js";
import { minute } from "./format.js";

export function fillFigures(parent, model, times, kinds) {
  const step = 60_000 / times.window_ms;
  const count = times.span_ms / times.window_ms;
  const places = [];
  // The windows that end at a full minute, newest first.
  for (let place = count - 1; place >= 0; place -= 1)
    if ((model.first_ms + place * times.window_ms) % 60_000 === 0) places.push(place);
  keyed(
    parent,
    model.versions,
    (version) => version.version,
    (version) => table(version, kinds),
    (made, version) =>
      keyed(
        made.tBodies[0],
        places,
        (place) => String(model.first_ms + place * times.window_ms),
        (place) => row(minute(model.first_ms + place * times.window_ms), kinds),
        (cells, place) =>
          kinds.forEach((kind, column) => {
            const windows = version.lines[kind.name].slice(Math.max(0, place - step + 1), place + 1);
            setText(cells.children[column + 1], kind.write(summary(windows, kind)));
          }),
      ),
  );
}

// Percentiles and shares of windows cannot be averaged: a minute shows the worst one of its windows.
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const SUMMARIES = {
  mean,
  highest: (values) => Math.max(...values),
  lowest: (values) => Math.min(...values),
};

function summary(values, kind) {
  const known = values.filter((value) => value !== null);
  return known.length ? SUMMARIES[kind.summary](known) : null;
}

function table(version, kinds) {
  const made = element("table");
  made.append(element("caption", "", version.version || "no version"));
  const head = element("tr");
  const titled = ({ title, unit, summary: which }) => heading([title, unit, which].filter(Boolean).join(" "), "number");
  head.append(heading("Minute to"), ...kinds.map(titled));
  made.createTHead().append(head);
  made.createTBody();
  return made;
}

function row(time, kinds) {
  const made = element("tr");
  const first = element("th", "", time);
  first.scope = "row";
  made.append(first, ...kinds.map(() => element("td", "number")));
  return made;
}

function heading(text, className = "") {
  const made = element("th", className, text);
  made.scope = "col";
  return made;
}
