"""An analysis in words: the tables and lines of the terminal and the page."""

from __future__ import annotations

import math
from collections.abc import Mapping

from squeeze_export.analyze.results import (
    Advice,
    Analysis,
    ClassChange,
    Cost,
    ExactEffect,
    FileCost,
    LayerSensitivity,
    MixedPrecision,
    RangeUse,
    Which,
)
from squeeze_export.report.tables import Column, Table
from squeeze_export.report.wording import NOTHING, decibel, milliseconds, one_line, output_error, percent, signed, size

ADVICE = "What would help"
CHANGES_SHOWN = 10


def summary_lines(analysis: Analysis) -> list[str]:
    """The whole network in two lines."""
    count = len(analysis.flips)
    flips = "none changes its class" if not count else "1 changes its class" if count == 1 else f"{count:,} change their class"
    same = f"{percent(analysis.int8.agreement)} the same top-1 class; {flips}"
    found = same if analysis.error is None else output_error(analysis.error)
    return [
        f"integers against fp32 on {analysis.image_count:,} images: {decibel(analysis.int8.sqnr_db)}, {found}",
        f"simulated on {analysis.part_count:,} of them: {decibel(analysis.whole.sqnr_db)}; weights alone in integers "
        f"{decibel(analysis.weights_alone.sqnr_db)}, activations alone {decibel(analysis.outputs_alone.sqnr_db)}",
    ]


def layer_table(analysis: Analysis) -> Table:
    """A row for each layer: what it adds to the error, and how its output fills its range."""
    total = sum(layer.share for layer in analysis.layers)
    uses = {use.name: use for use in analysis.tensors}
    figures = ("weights", "output", "without", "clipped", "on images", "largest", "mean", "99.9%", "unused", "dead")
    return Table(
        (Column("layer", "name"), *map(Column, figures)),
        [(*_error_cells(layer), *_use_cells(uses.get(layer.name))) for layer in analysis.layers],
        "Where the error comes from",
        f"weights, output: the error that each makes alone, of the whole one (together {percent_of(total)}); without: dB won with "
        "both in float; clipped: share of the output's values outside its range, and on how many images; largest, mean of each "
        "image's largest, and 99.9% point: of the range; unused: of its integers; dead: channels above 0 on no image",
    )


def _error_cells(layer: LayerSensitivity) -> tuple[str, ...]:
    weights = percent_of(layer.weights_share) if layer.weights is not None else NOTHING
    output = percent_of(layer.output_share) if layer.output is not None else NOTHING
    return one_line(layer.name), weights, output, db(layer.gain_db)


def _use_cells(use: RangeUse | None) -> tuple[str, ...]:
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
    """Each of the worst layers with what would help it, then the whole network with what would help everywhere."""
    layers = {layer.name: layer for layer in analysis.layers}
    found = []
    for name in analysis.worst:
        layer = layers[name]
        head = f"{one_line(name)}: {percent_of(layer.share)} of the error ({share_line(layer)})"
        lines = [advice_line(advice) for advice in analysis.advice if advice.layer == name]
        found.append((head, lines or ["nothing that was tried gains 0.1 dB"]))
    whole = [advice_line(advice) for advice in analysis.advice if not advice.layer]
    return [*found, ("all layers", whole)] if whole else found


def share_line(layer: LayerSensitivity) -> str:
    """`weights 4.8%, output 20%`."""
    return f"weights {percent_of(layer.weights_share)}, output {percent_of(layer.output_share)}"


def advice_line(advice: Advice) -> str:
    """`+1.42 dB  range too small: calibrate with ... (tried: its range ...)`."""
    return f"{db(advice.gain_db)}  {advice.cause}: {one_line(advice.mend)} (tried: {one_line(advice.tried)})"


def change_table(analysis: Analysis) -> Table | None:
    """The first `CHANGES_SHOWN` images that change their class; None if there are none."""
    if not analysis.flips:
        return None
    more = f"; {len(analysis.flips) - CHANGES_SHOWN:,} more in the JSON" if len(analysis.flips) > CHANGES_SHOWN else ""
    return Table(
        (
            *(Column("file", "name"), Column("reference", "name"), Column("margin"), Column("int8", "name")),
            *map(Column, ("margin there", "lost", "its change", "the other's")),
        ),
        [_change_row(flip, analysis) for flip in analysis.flips[:CHANGES_SHOWN]],
        "Images that change their class",
        "margin: the reference class's logit less the largest other one, in the reference and in the integers; its change: of that "
        f"class's logit; the other's: of the integers' class; sorted by the margin lost{more}",
    )


def _change_row(flip: ClassChange, analysis: Analysis) -> tuple[str, ...]:
    right = " (right)"
    return (
        one_line(flip.file),
        _class_name(flip.reference_class, analysis) + (right if flip.reference_class == flip.label else ""),
        f"{flip.reference_margin:.2f}",
        _class_name(flip.int8_class, analysis) + (right if flip.int8_class == flip.label else ""),
        signed(flip.int8_margin, 2),
        f"{flip.margin_lost:.2f}",
        signed(flip.reference_class_change, 2),
        signed(flip.int8_class_change, 2),
    )


def _class_name(index: int, analysis: Analysis) -> str:
    """The name of a class; its index if it has none."""
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
    """`+1.42 dB`; `exact` if no error is left."""
    return "exact" if value_db == math.inf else f"{signed(value_db, 2)} dB"


def mixed_lines(kept: MixedPrecision) -> list[str]:
    """Which layers, why these, and what then computes in float."""
    lines = [_answer(kept)]
    if kept.layers:
        convs = ", ".join(map(one_line, kept.convs))
        lines.append(f"in float: {len(kept.convs)} of {kept.conv_count} convolutions, which are {convs}")
    if kept.tried:
        runs = ", ".join(f"{tried.layer_count}: {_bound(tried.effect)}" for tried in kept.tried)
        lines.append(f"upper bounds of the drop by the number of layers, each from an exact run on all images: {runs}")
    return lines


def _answer(kept: MixedPrecision) -> str:
    layers, count = ", ".join(map(one_line, kept.layers)), len(kept.layers)
    if kept.max_drop_pp is None:
        first = f"the first {count} of the ranking, " if kept.ranking else ""
        return f"put back to float: {first}{layers}"
    bound = f"a drop of at most {kept.max_drop_pp:g} pp"
    if not kept.reached:
        where = f"with {_layers(count)} in float: {layers}" if layers else "with none"
        return f"{bound} is shown with no number of layers in float; the lowest upper bound, {_bound(kept.after)}, is {where}"
    if not layers:
        return f"{bound} needs no layer in float: its upper bound is {_bound(kept.after)}"
    fewer = next(tried.effect for tried in kept.tried if tried.layer_count == count - 1)
    return f"{bound} needs {_layers(count)} in float (with {count - 1 or 'none'} its upper bound is {_bound(fewer)}): {layers}"


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def mixed_table(kept: MixedPrecision) -> Table:
    """A row for each network: all in integers, with layers in float, fp32."""
    files = {file.network: file for file in kept.cost.files} if kept.cost is not None else {}
    rows = [_row("integers", 0, kept.before, files)]
    if kept.layers:
        rows.append(_row("kept", len(kept.convs), kept.after, files))
    if files:
        rows.append(_row("fp32", kept.conv_count, None, files))
    if kept.before.error is not None:
        columns = ("in float", "SQNR", "error", "95% at most", "correlation", "size", "p50", "of int8's", "")
        told = (
            "SQNR, error: the exact integer run; error: mean absolute difference from fp32's output, whose standard deviation is "
            f"{kept.before.error.spread:.3g}"
        )
    else:
        columns = ("in float", "SQNR", "agreement", "drop", "", "size", "p50", "of int8's", "")
        told = f"SQNR, agreement, drop: the exact integer run; drop: {_drop_note(kept)}"
    return Table(
        (Column("network", "name"), *map(Column, columns)),
        rows,
        "Layers kept in float",
        f"{told}; {_cost_note(kept.cost, bool(kept.layers))}",
    )


def _drop_note(kept: MixedPrecision) -> str:
    return (
        "top-1 of fp32 less that of the integers, with a paired 95% interval"
        if kept.drop_of == "top-1"
        else "share of images with another top-1 class than fp32's, with a 95% interval (no image is labelled)"
    )


_NAMES: Mapping[Which, str] = {"integers": "int8", "kept": "int8, these in float", "fp32": "fp32"}


def _row(which: Which, in_float: int, effect: ExactEffect | None, files: Mapping[Which, FileCost]) -> tuple[str, ...]:
    figures: tuple[str, ...] = (NOTHING, NOTHING, NOTHING, "")
    if effect is not None and effect.error is not None:
        error = effect.error
        correlation = NOTHING if error.correlation is None else f"{error.correlation:.4f}"
        figures = (decibel(effect.sqnr_db), f"{error.mean:.3g}", f"{error.p95:.3g}", correlation)
    elif effect is not None:
        drop = f"{signed(effect.drop_pp, 2)} pp", f"[{signed(effect.drop_low_pp, 2)}, {signed(effect.drop_high_pp, 2)}]"
        figures = (decibel(effect.sqnr_db), percent(effect.agreement), *drop)
    return _NAMES[which], f"{in_float}", *figures, *_cost_cells(files.get(which))


def _cost_cells(file: FileCost | None) -> tuple[str, ...]:
    if file is None:
        return (NOTHING,) * 3 + ("",)
    if file.p50_ms is None or file.to_integers is None:
        return size(file.size_bytes), NOTHING, NOTHING, ""
    bounds = f"[{file.to_integers_low:.2f}, {file.to_integers_high:.2f}]" if file.network != "integers" else ""
    return size(file.size_bytes), milliseconds(file.p50_ms), f"{file.to_integers:.2f}x", bounds


def _cost_note(cost: Cost | None, asked: bool) -> str:
    if cost is None:
        return (
            "size and p50: nothing that writes and runs ONNX or TFLite files is installed"
            if asked
            else "nothing is exported, as no layer is in float"
        )
    if not cost.runtime:
        return f"size: {cost.target} files; nothing was timed"
    where = f"{one_line(cost.runtime)} on {one_line(cost.device)}"
    return (
        f"size, p50: {cost.target} files, {where}, 1 thread, {cost.rounds:,} interleaved rounds; of int8's: the ratio of the p50s, "
        "with a 95% bootstrap interval"
    )


def _bound(effect: ExactEffect) -> str:
    return f"{signed(effect.drop_high_pp, 2)} pp"
