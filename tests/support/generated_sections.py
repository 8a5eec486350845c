"""`python -m tests.support.generated_sections`: write the parts of the docs that are generated from the code.

A part stands between `<!-- begin NAME: … -->` and `<!-- end NAME -->`. `tests/unit/docs/test_generated_sections.py`
holds the committed pages to the code.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from streams.prometheus.catalogue import markdown_table
from streams.serving import load_state
from tests.support.cli_reference import cli_sections
from tests.support.error_reference import promotion_rejections, response_errors
from tests.support.field_reference import (
    dead_letter_headers,
    request_fields,
    response_fields,
    response_headers,
    version_fields,
)
from tests.support.settings_reference import settings_tables
from tests.support.state_diagrams import (
    alert_diagram,
    diagram_of,
    lifecycle_diagram,
    lifecycle_table,
    refusals_table,
)
from workers.cache import availability
from workers.calls import breaker

ROOT = Path(__file__).parents[2]

SECTIONS: Mapping[tuple[str, str], Callable[[], str]] = {
    ("docs/monitoring.md", "metrics"): markdown_table,
    ("docs/control-plane.md", "moves"): lifecycle_table,
    ("docs/control-plane.md", "lifecycle"): lifecycle_diagram,
    ("docs/control-plane.md", "refusals"): refusals_table,
    ("docs/control-plane.md", "rejections"): promotion_rejections,
    ("docs/states.md", "loading"): lambda: diagram_of(load_state.TRANSITIONS, load_state.CURRENT.phase),
    ("docs/states.md", "breaker"): lambda: diagram_of(breaker.TRANSITIONS, breaker.CLOSED.phase),
    ("docs/states.md", "cache"): lambda: diagram_of(
        availability.TRANSITIONS, availability.CacheState().availability
    ),
    ("docs/states.md", "alerts"): alert_diagram,
    ("docs/reference/cli.md", "verbs"): cli_sections,
    ("docs/reference/errors.md", "errors"): response_errors,
    ("docs/reference/requests.md", "request"): request_fields,
    ("docs/reference/requests.md", "response"): response_fields,
    ("docs/reference/requests.md", "response headers"): response_headers,
    ("docs/reference/requests.md", "dead letter headers"): dead_letter_headers,
    ("docs/reference/versions.md", "versions"): version_fields,
    ("docs/reference/settings.md", "settings"): settings_tables,
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
