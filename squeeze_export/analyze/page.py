"""An analysis as one self-contained page: no script, no request, everything from elsewhere escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from squeeze_export.analyze.mixed_words import KEPT, KEPT_HEADER, kept_lines, kept_note, kept_rows
from squeeze_export.analyze.results import Analysis, Kept, LayerError
from squeeze_export.analyze.words import (
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
from squeeze_export.report.page import facts_of, lines_of, page, text
from squeeze_export.report.wording import facts_line

_WIDTH_PX = 1000
_LABEL_PX = 170
_VALUE_PX = 150
_ROW_PX = 22
_AXIS_PX = 26
_WORDS = {"layer", "file", "reference", "int8", "network"}


def analysis_html(analysis: Analysis) -> str:
    """The page: the summary, each layer's part of the error drawn and in figures, what would mend it, the flips, and
    what layers in float win and cost."""
    name = str(analysis.network.get("name", "squeeze-export"))
    network = {key: value for key, value in analysis.network.items() if key != "name"}
    body = [
        f'<header><h1>{text(name)}</h1><p class="soft">{text(facts_line(network))}</p></header>',
        lines_of(analysis.warnings, "warnings"),
        "".join(f"<p>{text(line)}</p>" for line in summary_lines(analysis)),
        f"<h2>{LAYERS}</h2>",
        '<p class="soft">The error that a layer makes alone, of the whole: filled its output in 8 bits, outlined its weights.</p>',
        _bars(analysis.layers),
        _table(LAYER_HEADER, layer_rows(analysis)),
        f'<p class="soft">{text(layer_note(analysis))}</p>',
        f"<h2>{ADVICE}</h2>" if analysis.worst else "",
        *(f"<h3>{text(head)}</h3>{lines_of(lines, 'verdicts')}" for head, lines in worst_lines(analysis)),
        _flips(analysis),
        _kept(analysis.kept),
        '<div class="columns">',
        facts_of("Images", analysis.evaluation),
        facts_of("Calibration", analysis.calibration),
        "</div>",
    ]
    return page(name, body)


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
            f"<g><title>{text(layer.name)}: {value}</title>",
            f'<text x="0" y="{y + 15}">{text(layer.name)}</text>',
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
    return f'<h2>{FLIPS}</h2>{_table(FLIP_HEADER, flip_rows(analysis))}<p class="soft">{text(flip_note(analysis))}</p>'


def _kept(kept: Kept | None) -> str:
    if kept is None:
        return ""
    lines = lines_of(kept_lines(kept), "verdicts")
    return f'<h2>{KEPT}</h2>{lines}{_table(KEPT_HEADER, kept_rows(kept))}<p class="soft">{text(kept_note(kept))}</p>'


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    kinds = ["name" if name in _WORDS else "figure" for name in header]
    head = "".join(f'<th class="{kind}">{text(name)}</th>' for kind, name in zip(kinds, header, strict=True))
    lines = ["".join(f'<td class="{kind}">{text(cell)}</td>' for kind, cell in zip(kinds, row, strict=True)) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
