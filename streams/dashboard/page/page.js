// Receives the event stream, and shows whether the connection is live.

import { element, keyed, setText } from "./dom.js";
import { clock, zonedClock } from "./format.js";
import { showAlerts, showWorkers } from "./lists.js";
import { ModelCard } from "./model.js";
import { ask } from "./promote.js";

// The server sends an event each second.
const SILENCE_MS = 5000;
const TRY_AGAIN_MS = 1000;

const asked = new URLSearchParams(location.search).getAll("model").filter(Boolean);
const cards = new Map();
const models = document.getElementById("models");
const connection = document.getElementById("connection");
let stream = null;
let heardAt = performance.now();
let lastMs = null;

function connect() {
  const query = new URLSearchParams(asked.map((name) => ["model", name]));
  stream?.close();
  stream = new EventSource(`dashboard/events${asked.length ? `?${query}` : ""}`);
  stream.addEventListener("state", (event) => {
    heardAt = performance.now();
    show(JSON.parse(event.data));
  });
  stream.addEventListener("trouble", () => {
    heardAt = performance.now();
    setConnection("trouble", `PostgreSQL cannot be read. ${lastShown()}`);
  });
  stream.addEventListener("error", () => {
    lost();
    // The browser does not retry after an HTTP error; the page does.
    if (stream.readyState === EventSource.CLOSED) setTimeout(connect, TRY_AGAIN_MS);
  });
}

setInterval(() => {
  if (performance.now() - heardAt < SILENCE_MS) return;
  lost();
  // A connection can be dead without an error, as after this machine slept.
  heardAt = performance.now();
  connect();
}, 500);

function lost() {
  setConnection("lost", `Disconnected; reconnecting. ${lastShown()}`);
}

const lastShown = () => (lastMs === null ? "" : `Showing ${clock(lastMs)}.`);

function setConnection(state, text) {
  document.body.dataset.connection = state;
  setText(connection, text);
}

function show(state) {
  lastMs = state.at_ms;
  setConnection("live", "Live");
  setText(document.getElementById("updated"), zonedClock(state.at_ms));
  showAlerts(state.alerts, state.at_ms);
  showModels(state);
  showWorkers(state.workers, state.reasons);
}

function showModels(state) {
  document.getElementById("models-none").hidden = state.models.length > 0;
  if (!state.models.length && asked.length)
    setText(document.getElementById("models-none"), `There is no model ${asked.join(" or ")}.`);
  keyed(
    models,
    state.models,
    (model) => model.model_name,
    (model) => {
      const card = new ModelCard(model.model_name, ask);
      cards.set(model.model_name, card);
      return card.element;
    },
    (_, model) => cards.get(model.model_name).update(model, state),
  );
  for (const name of cards.keys()) if (!state.models.some((model) => model.model_name === name)) cards.delete(name);
  showChoice(state);
}

function showChoice(state) {
  const shown = state.models.length;
  const all = state.model_names.length;
  document.getElementById("choose").hidden = all <= shown;
  if (all <= shown) return;
  setText(document.getElementById("choose-label"), `${shown} of ${all} models`);
  document.getElementById("choose-all").hidden = asked.length === 0;
  keyed(
    document.getElementById("choose-names"),
    state.model_names,
    (name) => name,
    (name) => {
      const option = element("option");
      option.value = name;
      return option;
    },
    () => {},
  );
}

connect();
