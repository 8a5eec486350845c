"""PURE. What to say about a name that is not known: the known name that is nearest to it, or where all are listed."""

import difflib
from collections.abc import Iterable

MAX_NAMES_COMPARED = 1000
"""More names take longer than a message is worth: one comparison takes about 10 µs."""


def suggestion(name: str, known: Iterable[str], listing: str = "") -> str:
    """`; did you mean NAME?`, or `; LISTING lists all` when no known name is near.

    Upper and lower case are the same here. `listing` is a command, or "" when there is none.
    """
    compared = {each.casefold(): each for each in list(known)[:MAX_NAMES_COMPARED]}
    near = difflib.get_close_matches(name.casefold(), compared, n=1)
    if near:
        return f"; did you mean {compared[near[0]]}?"
    return f"; `{listing}` lists all" if listing else ""
