"""`python -m streams.cli` is `headrace`."""

from streams.cli.main import main

main()
