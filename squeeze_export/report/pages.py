"""Fills in the templates of pages and drawings; text from elsewhere is escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from squeeze_export.core import Assumption
from squeeze_export.report import tables, wording
from squeeze_export.report.wording import one_line

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_FILTERS = (
    *(wording.decibel, wording.delta_pp, wording.delta_range, wording.device, wording.evidence, wording.fact, wording.facts_line),
    *(
        wording.milliseconds,
        wording.one_line,
        wording.output_error,
        wording.percent,
        wording.percent_range,
        wording.scheme,
        wording.sentence,
    ),
    *(
        wording.size,
        wording.speedup,
        wording.speedup_range,
        wording.spelt_facts,
        wording.steadiness,
        tables.estimate_lines,
        tables.operator_table,
    ),
)


def render(
    template: str, network: Mapping[str, Any], warnings: Sequence[str], *, assumptions: Sequence[Assumption] = (), **values: Any
) -> str:
    """A page: self-contained, without script or request.

    Args:
        template: its path in the package; it extends `report/templates/page.html`.
        network: its facts; its name is the title.
        warnings: shown at the top.
        assumptions: shown below them.
        values: the template's other variables.
    """
    title = str(network.get("name", "squeeze-export"))
    subtitle = wording.facts_line({key: value for key, value in network.items() if key != "name"})
    assumed = wording.assumption_line(assumptions)
    return fill(template, title=title, subtitle=subtitle, warnings=warnings, assumed=assumed, **values)


def fill(template: str, **values: Any) -> str:
    """Fills in a template; `template` is its path in the package."""
    return _environment().get_template(template).render(**values)


def draw(macro: str, *values: Any) -> str:
    """Calls a macro of `templates/charts.html`."""
    return str(getattr(_environment().get_template("report/templates/charts.html").module, macro)(*values))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("squeeze_export", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {function.__name__: function for function in (*_FILTERS, text)}
    environment.filters["px"] = "{:.1f}".format
    return environment


def text(words: str) -> Markup:
    """Escapes a text, in one line; a pair of backticks makes code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(one_line(words)))))
