"""An analysis in words and as JSON: the rows and lines that the table and the page share."""

from __future__ import annotations

import math
from typing import Any

from squeeze_export.analyze.results import Advice, Analysis, Flip, LayerError, TensorUse
from squeeze_export.report.wording import NOTHING, decibel, one_line, percent, signed
from squeeze_export.results import json_value

LAYER_HEADER = (
    "layer",
    "weights",
    "output",
    "without",
    "clipped",
    "on images",
    "largest",
    "mean",
    "99.9%",
    "unused",
    "dead",
)
FLIP_HEADER = ("file", "reference", "margin", "int8", "margin there", "lost", "its change", "the other's")
FLIPS_SHOWN = 10
LAYERS = "Where the error comes from"
ADVICE = "What would mend it"
FLIPS = "Images that change their class"


def analysis_json(analysis: Analysis) -> dict[str, Any]:
    """As JSON has it: an infinite SQNR is `"inf"`, and flips carry the names of their classes."""
    values: dict[str, Any] = json_value(analysis, "analysis")
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


def summary_lines(analysis: Analysis) -> list[str]:
    """The whole network in two lines."""
    count = len(analysis.flips)
    flips = "none changes its class" if not count else "1 changes its class" if count == 1 else f"{count:,} change their class"
    return [
        f"integers against fp32 on {analysis.image_count:,} images: {decibel(analysis.int8.sqnr_db)}, "
        f"{percent(analysis.int8.agreement)} the same top-1 class; {flips}",
        f"simulated on {analysis.part_count:,} of them: {decibel(analysis.whole.sqnr_db)}; weights alone in integers "
        f"{decibel(analysis.weights_alone.sqnr_db)}, activations alone {decibel(analysis.outputs_alone.sqnr_db)}",
    ]


def layer_note(analysis: Analysis) -> str:
    """What the columns of `LAYER_HEADER` mean, in one sentence."""
    total = sum(layer.share for layer in analysis.layers)
    return (
        f"weights, output: the error that each makes alone, of the whole one (together {percent_of(total)}); without: dB won with "
        "both in float; clipped: share of the output's values outside its range, and on how many images; largest, mean of each "
        "image's largest, and 99.9% point: of the range; unused: of its integers; dead: channels above 0 on no image"
    )


def layer_rows(analysis: Analysis) -> list[tuple[str, ...]]:
    """One row a layer, in the columns of `LAYER_HEADER`."""
    uses = {use.name: use for use in analysis.tensors}
    return [(*_error_cells(layer), *_use_cells(uses.get(layer.name))) for layer in analysis.layers]


def _error_cells(layer: LayerError) -> tuple[str, ...]:
    weights = percent_of(layer.weights_share) if layer.weights is not None else NOTHING
    output = percent_of(layer.output_share) if layer.output is not None else NOTHING
    return one_line(layer.name), weights, output, db(layer.gain_db)


def _use_cells(use: TensorUse | None) -> tuple[str, ...]:
    if use is None:
        return (NOTHING,) * 7
    clipped = use.clipped_high_share + use.clipped_low_share
    return (
        small_share(clipped),
        f"{use.clipped_image_count:,}" if use.clipped_image_count else NOTHING,
        f"{100 * use.largest_share:.0f}%",
        f"{100 * use.mean_largest_share:.0f}%",
        f"{100 * use.p999_share:.0f}%",
        f"{use.unused_levels}" if use.unused_levels else NOTHING,
        f"{len(use.dead_channels)}" if use.dead_channels else NOTHING,
    )


def worst_lines(analysis: Analysis) -> list[tuple[str, list[str]]]:
    """Each of the worst layers with what would mend it, then the whole network with what would help everywhere."""
    layers = {layer.name: layer for layer in analysis.layers}
    found = []
    for name in analysis.worst:
        layer = layers[name]
        head = f"{one_line(name)}: {percent_of(layer.share)} of the error ({_parts(layer)})"
        lines = [advice_line(advice) for advice in analysis.advice if advice.layer == name]
        found.append((head, lines or ["nothing that was tried gains 0.1 dB"]))
    whole = [advice_line(advice) for advice in analysis.advice if not advice.layer]
    return [*found, ("all layers", whole)] if whole else found


def _parts(layer: LayerError) -> str:
    return f"weights {percent_of(layer.weights_share)}, output {percent_of(layer.output_share)}"


def advice_line(advice: Advice) -> str:
    """`+1.42 dB  range too small: calibrate with ... (tried: its range ...)`."""
    return f"{db(advice.gain_db)}  {advice.cause}: {one_line(advice.mend)} (tried: {one_line(advice.tried)})"


def flip_rows(analysis: Analysis) -> list[tuple[str, ...]]:
    """The first `FLIPS_SHOWN` of them, in the columns of `FLIP_HEADER`."""
    return [_flip_row(flip, analysis) for flip in analysis.flips[:FLIPS_SHOWN]]


def flip_note(analysis: Analysis) -> str:
    """What the columns mean, in one sentence."""
    more = f"; {len(analysis.flips) - FLIPS_SHOWN:,} more in the JSON" if len(analysis.flips) > FLIPS_SHOWN else ""
    return (
        "margin: the reference class's logit less the largest other one, in the reference and in the integers; its change: of that "
        f"class's logit; the other's: of the integers' class; sorted by the margin lost{more}"
    )


def _flip_row(flip: Flip, analysis: Analysis) -> tuple[str, ...]:
    right = " (right)"
    return (
        one_line(flip.file),
        class_name(flip.reference_class, analysis) + (right if flip.reference_class == flip.label else ""),
        f"{flip.reference_margin:.2f}",
        class_name(flip.int8_class, analysis) + (right if flip.int8_class == flip.label else ""),
        signed(flip.int8_margin, 2),
        f"{flip.margin_lost:.2f}",
        signed(flip.reference_class_change, 2),
        signed(flip.int8_class_change, 2),
    )


def class_name(index: int, analysis: Analysis) -> str:
    """The class's name; its index where it has none."""
    return one_line(analysis.labels[index]) if analysis.labels else str(index)


def percent_of(share: float) -> str:
    """`38%`, below 10 `3.1%`; a share may well be above 100%."""
    return f"{100 * share:.0f}%" if share >= 0.0995 else f"{100 * share:.1f}%"


def small_share(share: float) -> str:
    """A share that may be tiny, in percent: `1.3%`, `0.0021%`; `-` for none."""
    if share == 0:
        return NOTHING
    return f"{100 * share:.1f}%" if share >= 0.001 else f"{100 * share:.2g}%"


def db(value_db: float) -> str:
    """`+1.42 dB`; `exact` where nothing is left of the error."""
    return "exact" if value_db == math.inf else f"{signed(value_db, 2)} dB"
