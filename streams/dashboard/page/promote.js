// Promote and roll back: confirms in a dialog, sends the event with the token, shows the result.

import { setText } from "./dom.js";
import { clock, percent } from "./format.js";

const dialog = document.getElementById("promote");
const form = dialog.querySelector("form");
const submit = dialog.querySelector("[type=submit]");
const cancel = dialog.querySelector("[value=cancel]");
const problem = document.getElementById("promote-problem");
const KEPT = ["actor", "token"];

let wanted = null;

cancel.addEventListener("click", () => dialog.close());
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  submit.disabled = true;
  setText(problem, "");
  try {
    await send();
  } finally {
    submit.disabled = false;
  }
});

export function ask(card, command) {
  const { model } = card;
  wanted = { card, command, revision: model.revision };
  setText(document.getElementById("promote-heading"), `${command.label} of ${card.name}`);
  setText(document.getElementById("promote-effect"), effect(model, command));
  setText(submit, command.label);
  setText(problem, "");
  for (const name of KEPT) form.elements[name].value = sessionStorage.getItem(`headrace-${name}`) ?? "";
  form.elements.reason.value = "";
  dialog.showModal();
}

function effect(model, command) {
  if (command.action === "promote") {
    const before = model.versions.find((version) => version.status === "production");
    const rest = before ? ` ${before.version} is archived, and stays ready for a rollback.` : "";
    return `${command.version} gets 100% of the users.${rest}`;
  }
  const { stops, returns_to: target } = model.rollback;
  return stops ? `${stops.join(" and ")} gets no users; production gets all of them.` : `${target} gets 100% of the users again.`;
}

async function send() {
  const { card, command, revision } = wanted;
  const token = form.elements.token.value;
  const actor = form.elements.actor.value.trim();
  const body = { action: command.action, model_name: card.name, expected_revision: revision, actor, reason: form.elements.reason.value.trim() };
  if (command.version !== null) body.version = command.version;
  let answer;
  try {
    const response = await fetch("dashboard/promotions", {
      method: "POST",
      headers: { "Authorization": `Bearer ${token}`, "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    answer = await response.json();
  } catch {
    setText(problem, "No answer arrived. The change may have been applied: look before you try again.");
    return;
  }
  if (answer.error?.code === "UNAUTHORIZED") {
    sessionStorage.removeItem("headrace-token");
    setText(problem, "The token is wrong.");
    form.elements.token.focus();
    return;
  }
  sessionStorage.setItem("headrace-token", token);
  sessionStorage.setItem("headrace-actor", actor);
  if (answer.error) {
    setText(problem, `${answer.error.code}: ${answer.error.message}`);
    return;
  }
  card.showOutcome(`Applied at ${clock(Date.now())}: revision ${answer.revision}, ${split(answer.route)}`);
  dialog.close();
}

function split(route) {
  const buckets = new Map();
  for (const { start, end, version } of route?.ranges ?? []) buckets.set(version, (buckets.get(version) ?? 0) + end - start);
  return [...buckets].map(([version, count]) => `${version} ${percent(count / 100)}`).join(", ") || "no version takes traffic";
}
