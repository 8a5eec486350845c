"""schemas/near_names.py: what is said of a name that is not known."""

import pytest

from schemas.near_names import MAX_NAMES_COMPARED, suggestion

KNOWN = ("fraud", "cancer", "movie-recommendations", "V2")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fruad", "; did you mean fraud?"),
        ("FRAUD", "; did you mean fraud?"),
        ("movie-recomendation", "; did you mean movie-recommendations?"),
        ("v2", "; did you mean V2?"),
        ("weather", "; `headrace models` lists all"),
    ],
)
def test_the_nearest_name_is_suggested(name: str, said: str) -> None:
    """Without regard to case; a name that is near to none says where all are listed."""
    assert suggestion(name, KNOWN, "headrace models") == said


def test_nothing_is_said_where_there_is_nothing_to_say() -> None:
    """No known name, no list of them; and the comparison of very many names is bounded."""
    assert suggestion("a", ()) == ""
    many = [f"{number:06d}" for number in range(MAX_NAMES_COMPARED)] + ["fraud"]
    assert suggestion("fraud", many) == ""
