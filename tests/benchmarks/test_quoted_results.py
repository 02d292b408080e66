"""The pages quote the committed benchmark results, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.embed import MARKED, embedded, pages


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_a_page_quotes_the_committed_results(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert embedded(text) == text, "run: python -m benchmarks.embed"


def test_the_readme_quotes_results() -> None:
    assert MARKED.search(pages()[0].read_text(encoding="utf-8"))


def test_a_changed_figure_is_noticed() -> None:
    text = pages()[0].read_text(encoding="utf-8")
    found = MARKED.search(text)
    assert found is not None
    changed = text.replace(found[0], found[0].replace(" dB", "9 dB"))
    assert embedded(changed) == embedded(text) != changed
