// The lines as tables, a row for each minute: for those who read better than they see.

import { element, keyed, setText } from "./dom.js";
import { minute } from "./format.js";

export function fillFigures(parent, model, times, kinds) {
  const step = 60_000 / times.window_ms;
  const count = times.span_ms / times.window_ms;
  const places = [];
  // Windows that end with a minute, the newest first.
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
            const value = of(version.lines[kind.name].slice(Math.max(0, place - step + 1), place + 1), kind.name);
            setText(cells.children[column + 1], kind.write(value));
          }),
      ),
  );
}

// A minute's rate is the mean of its windows; the others are those of its last window that has any.
function of(values, name) {
  const known = values.filter((value) => value !== null);
  if (!known.length) return null;
  return name === "requests_per_second" ? known.reduce((sum, value) => sum + value, 0) / known.length : known.at(-1);
}

function table(version, kinds) {
  const made = element("table");
  made.append(element("caption", "", version.version || "no version"));
  const head = element("tr");
  head.append(heading("Minute to"), ...kinds.map((kind) => heading(`${kind.title}${kind.unit ? ` ${kind.unit}` : ""}`, "number")));
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
