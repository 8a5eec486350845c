"""The generated parts of the docs are what the code says; `make docs` writes them."""

import pytest

from tests.support.generated_sections import ROOT, SECTIONS, page_with


@pytest.mark.parametrize("page", sorted({page for page, _ in SECTIONS}))
def test_the_committed_page_has_the_generated_parts(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert page_with(page, text) == text
