"""The live page: what each model does, drawn in a browser, by `headrace dashboard` and by the role `monitor`.

All that it shows it reads from PostgreSQL: routes, the audit trail, heartbeats, alerts, and the windows that monitors
add up there. So the page is the same wherever it is served, counts each delta once, and has a past from its first
moment. It reads once a second, for all who look, and nothing while nobody does.
"""
