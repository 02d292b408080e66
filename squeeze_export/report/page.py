"""What every page shares: one self-contained file, no script, no request, everything from elsewhere escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from squeeze_export.report.style import STYLE
from squeeze_export.report.wording import one_line, spelt_facts


def page(title: str, parts: Iterable[str]) -> str:
    """The whole file; parts are HTML, empty ones are left out."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        # The browser itself then refuses whatever request or script an escape may have missed.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(one_line(title))}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


def text(words: str) -> str:
    """Escaped text; a pair of backticks makes code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(one_line(words)))


def lines_of(lines: Sequence[str], kind: str) -> str:
    """A list of the CSS class `kind`; nothing where there are no lines."""
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def facts_of(title: str, facts: Mapping[str, Any]) -> str:
    """A heading and its facts; nothing where there are none."""
    if not facts:
        return ""
    rows = "".join(f"<dt>{text(word)}</dt><dd>{text(value)}</dd>" for _, word, value in spelt_facts(facts))
    return f"<div><h2>{title}</h2><dl>{rows}</dl></div>"
