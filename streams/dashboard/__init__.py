"""The live page of all models, served by `headrace dashboard` and by the role `monitor`.

Everything on it is read from PostgreSQL: routes, the audit trail, heartbeats, alerts, and the windows that monitors
write. So the page is the same wherever it is served, counts each delta once, and has a past from the first moment.
It is read once a second for all open pages, and not at all while none is open.
"""
