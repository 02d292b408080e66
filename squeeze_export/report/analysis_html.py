"""An analysis as one self-contained page: no script, no request, everything from elsewhere escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from squeeze_export.report.analysis import (
    ADVICE,
    FLIP_HEADER,
    FLIPS,
    LAYER_HEADER,
    LAYERS,
    flip_note,
    flip_rows,
    layer_note,
    layer_rows,
    percent_of,
    summary_lines,
    worst_lines,
)
from squeeze_export.report.charts import ticks_over
from squeeze_export.report.style import STYLE
from squeeze_export.report.wording import facts_line, one_line, spelt_facts
from squeeze_export.results_analysis import Analysis, LayerError

_WIDTH_PX = 1000
_LABEL_PX = 170
_VALUE_PX = 150
_ROW_PX = 22
_AXIS_PX = 26
_WORDS = {"layer", "file", "reference", "int8"}


def analysis_html(analysis: Analysis) -> str:
    """The page: the summary, each layer's part of the error drawn and in figures, what would mend it, and the flips."""
    name = str(analysis.network.get("name", "squeeze-export"))
    network = {key: value for key, value in analysis.network.items() if key != "name"}
    body = [
        f'<header><h1>{_text(name)}</h1><p class="soft">{_text(facts_line(network))}</p></header>',
        _list(analysis.warnings, "warnings"),
        "".join(f"<p>{_text(line)}</p>" for line in summary_lines(analysis)),
        f"<h2>{LAYERS}</h2>",
        '<p class="soft">The error that a layer makes alone, of the whole: filled its output in 8 bits, outlined its weights.</p>',
        _bars(analysis.layers),
        _table(LAYER_HEADER, layer_rows(analysis)),
        f'<p class="soft">{_text(layer_note(analysis))}</p>',
        f"<h2>{ADVICE}</h2>" if analysis.worst else "",
        *(f"<h3>{_text(head)}</h3>{_list(lines, 'verdicts')}" for head, lines in worst_lines(analysis)),
        _flips(analysis),
        '<div class="columns">',
        _facts("Images", analysis.evaluation),
        _facts("Calibration", analysis.calibration),
        "</div>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        # The browser itself then refuses whatever request or script an escape may have missed.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(one_line(name))}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(filter(None, body))
        + "\n</body></html>\n"
    )


def _bars(layers: Sequence[LayerError]) -> str:
    """A bar a layer, over an axis in percent of the whole error that starts at 0."""
    ticks = ticks_over(0.0, 100 * max(layer.share for layer in layers))
    scale = (_WIDTH_PX - _LABEL_PX - _VALUE_PX) / ticks[-1]
    bottom = len(layers) * _ROW_PX
    parts = []
    for tick in ticks:
        x = _LABEL_PX + scale * tick
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text class="soft" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:.6g}%</text>')
    for index, layer in enumerate(layers):
        y = index * _ROW_PX
        output, weights = (100 * scale * share for share in (layer.output_share, layer.weights_share))
        value = f"weights {percent_of(layer.weights_share)}, output {percent_of(layer.output_share)}"
        parts += [
            f"<g><title>{_text(layer.name)}: {value}</title>",
            f'<text x="0" y="{y + 15}">{_text(layer.name)}</text>',
            f'<rect class="dot" x="{_LABEL_PX}" y="{y + 5}" width="{output:.1f}" height="12"/>',
            f'<rect class="box" x="{_LABEL_PX + output:.1f}" y="{y + 5}" width="{weights:.1f}" height="12"/>',
            f'<text class="soft" x="{_WIDTH_PX - _VALUE_PX + 20}" y="{y + 15}">{percent_of(layer.share)}</text></g>',
        ]
    return (
        f'<div class="wide"><svg viewBox="0 0 {_WIDTH_PX} {bottom + _AXIS_PX}" role="img" aria-label="{LAYERS}">'
        f"{''.join(parts)}</svg></div>"
    )


def _flips(analysis: Analysis) -> str:
    if not analysis.flips:
        return ""
    return f'<h2>{FLIPS}</h2>{_table(FLIP_HEADER, flip_rows(analysis))}<p class="soft">{_text(flip_note(analysis))}</p>'


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    kinds = ["name" if name in _WORDS else "figure" for name in header]
    head = "".join(f'<th class="{kind}">{_text(name)}</th>' for kind, name in zip(kinds, header, strict=True))
    lines = ["".join(f'<td class="{kind}">{_text(cell)}</td>' for kind, cell in zip(kinds, row, strict=True)) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _facts(title: str, facts: Mapping[str, Any]) -> str:
    rows = "".join(f"<dt>{_text(word)}</dt><dd>{_text(value)}</dd>" for _, word, value in spelt_facts(facts))
    return f"<div><h2>{title}</h2><dl>{rows}</dl></div>"


def _list(lines: Sequence[str], kind: str) -> str:
    items = "".join(f"<li>{_text(line)}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def _text(text: str) -> str:
    return escape(one_line(text))
