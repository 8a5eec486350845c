"""How fast Headrace is beside others, in one run on one machine; `README.md` here says what is measured.

Promises: every competitor is a process of its own, gets the same records, and is timed from outside by
the broker's clock; its answers are all checked, and one that answers wrongly gets no figure.
Must never be imported by: `streams`, `registry`, `workers`, `deploy`.
"""
