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

export function showWorkers(workers) {
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
      name.append(element("p", "why"));
      row.append(name, element("td", "number"), element("td", "number"));
      return row;
    },
    (row, worker) => {
      const [name, seen, behind] = row.children;
      setClass(row, worker.is_live ? "" : "silent");
      setText(seen, worker.is_live ? seconds(worker.age_seconds) : `silent ${seconds(worker.age_seconds)}`);
      const count = Math.max(worker.epochs_behind, worker.behind.length);
      setText(behind, String(count));
      setClass(behind, count > 0 ? "number late" : "number");
      setText(name.querySelector("p"), worker.behind.map((each) => `${each.model_name}: ${each.reason}`).join("; "));
    },
  );
}
