"""The demo: two recommenders trained on real ratings, served by a local stack, with a live view.

`python -m deploy.demo` (or `make demo`) trains, registers, serves and replays. It is not in the wheel.
Promises: every process that it starts ends with it; its requests use the same code, topics and processes
as any other model's traffic. `ratings`, `recommenders`, `scenario` and `texts` are PURE.
No other package imports it.
"""
