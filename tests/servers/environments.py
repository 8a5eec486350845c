"""`python -m tests.servers.environments`: makes what the servers run in, before the tests need it.

It prints what cannot be installed here; the tests report what did not run, and fail for what should have.
"""

from rich.console import Console

from schemas.errors import SetupError
from tests.servers.kinds import KINDS
from tests.servers.launching import install


def main() -> None:
    out = Console(highlight=False, soft_wrap=True)
    for kind in KINDS:
        try:
            install(kind, lambda step: out.print(f"servers: {step}", markup=False))
        except SetupError as error:
            out.print(f"servers: no {kind.name}: {error}", markup=False)


if __name__ == "__main__":
    main()
