// The firing alerts, and the workers.

import { element, keyed, setClass, setText } from "./dom.js";
import { moment, seconds } from "./format.js";

export function showAlerts(alerts, nowMs) {
  const none = document.getElementById("alerts-none");
  setText(none, "Nothing fires.");
  none.hidden = alerts.length > 0;
  document.title = alerts.length ? `(${alerts.length}) Headrace` : "Headrace";
  keyed(
    document.getElementById("alerts"),
    alerts,
    (alert) => alert.alert_id,
    (alert) => {
      const item = element("li", alert.severity === "critical" ? "critical" : "warning");
      const line = element("p");
      line.append(element("b", "", alert.severity), ` ${alert.rule} since `, element("time"));
      item.append(line, element("p", "what", alert.text));
      return item;
    },
    (item, alert) => setText(item.querySelector("time"), moment(alert.since_ms, nowMs)),
  );
}

export function showWorkers(workers, reasons) {
  const table = document.getElementById("workers");
  const none = document.getElementById("workers-none");
  table.hidden = workers.length === 0;
  none.hidden = workers.length > 0;
  keyed(
    table.tBodies[0],
    workers,
    (worker) => worker.boot_id,
    (worker) => {
      const row = element("tr");
      const name = element("th", "", worker.worker);
      name.scope = "row";
      row.append(name, element("td", "number"), element("td", "number"));
      return row;
    },
    (row, worker) => {
      const [, seen, behind] = row.children;
      setClass(row, worker.is_live ? "" : worker.is_faded ? "silent faded" : "silent");
      setText(seen, worker.is_live ? seconds(worker.age_seconds) : `silent ${seconds(worker.age_seconds)}`);
      const count = Math.max(worker.epochs_behind, worker.models_behind);
      setText(behind, String(count));
      setClass(behind, count > 0 ? "number late" : "number");
    },
  );
  showReasons(reasons);
}

// Each reason once, below the table, with the workers that gave it.
function showReasons(reasons) {
  keyed(
    document.getElementById("reasons"),
    reasons,
    (each) => `${each.model_name}:${each.reason}`,
    (each) => {
      const item = element("li", each.is_behind ? "late" : "");
      const line = element("p");
      line.append(element("b", "", each.model_name), ` ${each.reason}`);
      item.append(line, element("p", "why"));
      return item;
    },
    (item, each) => setText(item.querySelector(".why"), each.workers.join(", ")),
  );
}
