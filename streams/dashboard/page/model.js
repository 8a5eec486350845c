// One model: its traffic split, the metrics of its versions, and its changes.

import { Chart } from "./chart.js";
import { element, keyed, setAttribute, setClass, setText } from "./dom.js";
import { clock, errorShare, milliseconds, moment, NOTHING, percent, rate, share } from "./format.js";
import { fillFigures } from "./figures.js";

const CHANGES_LISTED = 4;

const wholePercent = (value) => `${Math.round(value * 100)}%`;
const plain = (value) => (value >= 10_000 ? `${value / 1000}k` : String(Number(value.toPrecision(3))));

const CHARTS = [
  {
    name: "requests_per_second", summary: "mean", title: "Requests", unit: "per second", write: rate, axis: plain, least: 1,
  },
  { name: "p50_ms", summary: "highest", title: "p50", unit: "ms", write: milliseconds, axis: plain, least: 0.1 },
  { name: "p99_ms", summary: "highest", title: "p99", unit: "ms", write: milliseconds, axis: plain, least: 0.1 },
  { name: "cache_hit_share", summary: "lowest", title: "Cache hits", write: share, axis: wholePercent, top: 1 },
  { name: "error_share", summary: "highest", title: "Errors", write: errorShare, axis: (value) => percent(value * 100), least: 0.01 },
];

export class ModelCard {
  constructor(name, onPromote) {
    this.name = name;
    this.onPromote = onPromote;
    this.hovered = null;
    this.chosen = null;
    this.element = document.getElementById("model").content.firstElementChild.cloneNode(true);
    const part = (selector) => this.element.querySelector(selector);
    this.parts = {
      heading: part("h2"),
      revision: part(".revision"),
      actions: part(".actions"),
      outcome: part(".outcome"),
      split: part(".split"),
      instead: part(".instead"),
      rows: part(".versions tbody"),
      changes: part(".changes ol"),
      codes: part(".codes"),
      slider: part("input[type=range]"),
      output: part("output"),
      figures: part("details"),
    };
    const id = `model-${name}`;
    this.parts.heading.id = id;
    this.element.setAttribute("aria-labelledby", id);
    this.parts.heading.textContent = name;
    part("caption").textContent = `Versions of ${name} now`;
    this.charts = CHARTS.map((kind) => new Chart(kind, (place) => this.hover(place)));
    part(".charts").prepend(...this.charts.map((chart) => chart.figure));
    this.parts.slider.addEventListener("input", () => this.choose());
    this.parts.figures.addEventListener("toggle", () => this.showFigures());
  }

  update(model, state) {
    this.model = model;
    this.times = { at_ms: state.at_ms, span_ms: state.span_ms, window_ms: state.window_ms };
    setText(this.parts.revision, `revision ${model.revision}`);
    this.showSplit();
    this.showInstead(state.reasons);
    this.showVersions();
    this.showChanges();
    this.showCodes();
    this.showActions(state.may_promote);
    for (const chart of this.charts) chart.show(model, this.times);
    setAttribute(this.parts.slider, "max", this.places - 1);
    if (this.chosen === null) this.parts.slider.value = this.places - 1;
    this.point();
    if (this.firstShown !== model.first_ms) this.showFigures();
    this.firstShown = model.first_ms;
  }

  get places() {
    return this.times.span_ms / this.times.window_ms;
  }

  // The band has what the workers answer by, which may be an older route than the registry's.
  showSplit() {
    const shares = this.model.versions.filter((version) => version.served_percent > 0);
    const text = shares.map((version) => `${version.version} ${percent(version.served_percent)}`).join(", ");
    setAttribute(this.parts.split, "aria-label", shares.length ? `Traffic: ${text}` : "No version takes traffic");
    setClass(this.parts.split, shares.length ? "split" : "split nothing");
    keyed(
      this.parts.split,
      shares,
      (version) => version.version,
      () => element("span"),
      (part, version) => {
        setClass(part, `b${version.colour}`);
        part.style.flexGrow = version.served_percent;
        setText(part, `${version.version} ${percent(version.served_percent)}`);
      },
    );
  }

  showInstead(reasons) {
    const own = reasons.filter((each) => each.model_name === this.name);
    setText(this.parts.instead, own.map((each) => `${each.workers.join(", ")}: ${each.reason}`).join("; "));
  }

  showVersions() {
    keyed(
      this.parts.rows,
      this.model.versions,
      (version) => `v:${version.version}`,
      () => {
        const row = element("tr");
        const heading = element("th");
        heading.scope = "row";
        heading.append(element("i"), element("b"), " ", element("small"));
        row.append(heading, ...Array.from({ length: 6 }, () => element("td", "number")));
        return row;
      },
      (row, version) => {
        const [heading, ...cells] = row.children;
        const [swatch, name, status] = heading.children;
        setClass(row, version.served_percent > 0 ? "" : "idle");
        setClass(swatch, `swatch b${version.colour}`);
        setText(name, version.version || "no version");
        setText(status, version.version ? version.status : "reached no version");
        const now = version.now ?? {};
        const values = [
          version.version ? percent(version.percent) : NOTHING,
          rate(now.requests_per_second),
          milliseconds(now.p50_ms),
          milliseconds(now.p99_ms),
          share(now.cache_hit_share),
          errorShare(now.error_share),
        ];
        cells.forEach((cell, place) => setText(cell, values[place]));
        setClass(cells[5], now.error_share > 0 ? "number failing" : "number");
      },
    );
  }

  showChanges() {
    keyed(
      this.parts.changes,
      this.model.changes.slice(0, CHANGES_LISTED),
      (change) => String(change.revision),
      (change) => {
        const item = element("li");
        const line = element("p");
        line.append(element("b", "", `r${change.revision}`), " ", element("time"), ` ${change.action}`);
        if (change.actor) line.append(element("span", "why", ` by ${change.actor}`));
        item.append(line);
        const what = element("p", "what", change.what);
        if (change.reason) what.append(element("span", "why", ` ${change.reason}`));
        item.append(what);
        return item;
      },
      (item, change) => setText(item.querySelector("time"), moment(change.at_ms, this.times.at_ms)),
    );
  }

  showCodes() {
    const counts = this.model.versions.flatMap((version) =>
      Object.entries(version.errors).map(([code, times]) => `${code} ${times.toLocaleString("en-US")} × ${version.version || "no version"}`),
    );
    setText(this.parts.codes, counts.length ? `Errors of the last 15 minutes: ${counts.join(", ")}` : "No errors in the last 15 minutes");
  }

  showActions(mayPromote) {
    const { versions, rollback } = this.model;
    const commands = [];
    if (mayPromote) {
      for (const { version, status } of versions)
        if (status === "staging" || status === "canary") commands.push({ action: "promote", version, label: `Promote ${version}` });
      if (rollback) commands.push({ action: "rollback", version: rollback.returns_to ?? null, label: "Roll back" });
    }
    keyed(
      this.parts.actions,
      commands,
      (command) => `${command.action}:${command.version}`,
      (command) => {
        const button = element("button", command.action, command.label);
        button.type = "button";
        button.setAttribute("aria-label", `${command.label} of ${this.name} …`);
        button.addEventListener("click", () => this.onPromote(this, command));
        return button;
      },
      () => {},
    );
  }

  // Show the result of a promotion from this page.
  showOutcome(text) {
    setText(this.parts.outcome, text);
  }

  hover(place) {
    this.hovered = place;
    this.point();
  }

  choose() {
    const place = Number(this.parts.slider.value);
    this.chosen = place === this.places - 1 ? null : place;
    this.point();
  }

  point() {
    const place = this.hovered ?? this.chosen;
    for (const chart of this.charts) chart.point(place);
    setText(this.parts.output, place === null ? "now" : clock(this.charts[0].timeOf(place)));
    const text = this.chosen === null ? "now" : this.charts.map((chart) => chart.textAt(this.chosen)).join("; ");
    setAttribute(this.parts.slider, "aria-valuetext", text);
  }

  showFigures() {
    if (this.parts.figures.open) fillFigures(this.parts.figures, this.model, this.times, CHARTS);
  }
}
