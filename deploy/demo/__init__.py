"""The demo: two recommenders trained on real ratings, served by a stack of its own and watched live.

`python -m deploy.demo` (or `make demo`) trains, registers, serves and replays; everything it starts
ends with it. It promises that what it shows passed through the same code, topics and processes as any
other model's traffic. Nothing imports it.
"""
