"""An analysis as JSON, on a rich console, and as one self-contained page."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from squeeze_export.analyze.results import Analysis
from squeeze_export.analyze.words import (
    ADVICE,
    change_table,
    layer_table,
    mixed_lines,
    mixed_table,
    summary_lines,
    worst_lines,
)
from squeeze_export.documents import to_json
from squeeze_export.report.charts import svg
from squeeze_export.report.figures import LayerError, layer_figure
from squeeze_export.report.pages import render
from squeeze_export.report.terminal import print_line, print_rows


def analysis_json(analysis: Analysis) -> dict[str, Any]:
    """The analysis as JSON: an infinite SQNR is `"inf"`, and flips have the names of their classes."""
    values: dict[str, Any] = to_json(analysis, "analysis")
    labels = values.pop("labels")
    for flip in values["flips"]:
        for key in ("label", "reference_class", "int8_class"):
            flip[f"{key}_name"] = labels[flip[key]] if labels and flip[key] is not None else None
    timed = analysis.kept is not None and analysis.kept.cost is not None and analysis.kept.cost.runtime
    evidence = (
        "counts, flips, `int8` and the effects of `kept`: the exact integer run (graph/integer.py) and the float network; other "
        "effects, shares, gains: simulated (analyze/simulation.py); "
        f"{'latencies: measured, as `kept.cost` says' if timed else 'no runtime took part'}"
    )
    return {**values, "evidence": evidence}


def print_analysis(analysis: Analysis, console: Console) -> None:
    """Prints the summary, a row for each layer (the worst in bold), what would help these, the images that change their class, and
    what layers in float gain and cost."""
    for line in summary_lines(analysis):
        print_line(line, console)
    console.print()
    layers, flips = layer_table(analysis), change_table(analysis)
    print_rows(layers, console, bold=analysis.worst)
    print_line(layers.note, console, "dim")
    for head, lines in worst_lines(analysis):
        console.print()
        print_line(head, console, "bold")
        for line in lines:
            print_line(line, console, indent="  ")
    if flips is not None:
        console.print()
        print_rows(flips, console)
        print_line(flips.note, console, "dim")
    if analysis.kept is not None:
        kept = mixed_table(analysis.kept)
        console.print()
        print_line(kept.title, console, "bold")
        for line in mixed_lines(analysis.kept):
            print_line(line, console, indent="  ")
        print_rows(kept, console)
        print_line(kept.note, console, "dim")


def analysis_html(analysis: Analysis) -> str:
    """The page: the summary, each layer's share of the error as a drawing and in figures, what would help, the images that
    change their class, and what layers in float gain and cost."""
    return render(
        "analyze/templates/analysis.html",
        analysis.network,
        analysis.warnings,
        assumptions=analysis.assumptions,
        analysis=analysis,
        summary=summary_lines(analysis),
        drawing=_drawing(analysis),
        layers=layer_table(analysis),
        advice=ADVICE,
        worst=worst_lines(analysis),
        flips=change_table(analysis),
        kept=mixed_table(analysis.kept) if analysis.kept is not None else None,
        mixed_lines=mixed_lines(analysis.kept) if analysis.kept is not None else [],
    )


def _drawing(analysis: Analysis) -> str:
    """Each layer's shares of the error as bars."""
    figure = layer_figure([LayerError(layer.name, layer.weights_share, layer.output_share) for layer in analysis.layers])
    return svg(figure) if figure is not None else ""
