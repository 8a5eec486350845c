"""`python -m streams.cli` is `headrace`; the supervisor starts its workers by it."""

from streams.cli.main import main

main()
