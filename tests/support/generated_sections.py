"""`python -m tests.support.generated_sections`: write the parts of the docs that are generated from the code.

A part stands between `<!-- begin NAME: … -->` and `<!-- end NAME -->`. `tests/unit/docs/test_generated_sections.py`
holds the committed pages to the code.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from streams.prometheus.catalogue import markdown_table

ROOT = Path(__file__).parents[2]

SECTIONS: Mapping[tuple[str, str], Callable[[], str]] = {
    ("docs/monitoring.md", "metrics"): markdown_table,
}
"""(page, name of the part) -> what writes it: Markdown that ends in a newline."""


def page_with(page: str, text: str) -> str:
    """The text of a page with all its generated parts as the code has them."""
    for (of_page, name), write in SECTIONS.items():
        if of_page == page:
            pattern = rf"(<!-- begin {name}:[^\n]*-->\n)(.*?)(<!-- end {name} -->)"
            (found,) = re.finditer(pattern, text, re.DOTALL)
            text = f"{text[: found.end(1)]}\n{write()}\n{text[found.start(3) :]}"
    return text


def main() -> None:
    for page in {page for page, _ in SECTIONS}:
        path = ROOT / page
        path.write_text(page_with(page, path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
