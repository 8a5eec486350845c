"""The role `monitor`: adds up the metrics of all workers, evaluates alert rules, and delivers alerts."""
