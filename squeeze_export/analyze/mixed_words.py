"""What layers in float win and cost, in words: the rows and lines that the table and the page share."""

from __future__ import annotations

from collections.abc import Mapping

from squeeze_export.analyze.results import Cost, ExactEffect, FileCost, Kept, Which
from squeeze_export.report.wording import NOTHING, decibel, milliseconds, one_line, percent, signed, size

KEPT = "Layers kept in float"
KEPT_HEADER = ("network", "in float", "SQNR", "agreement", "drop", "", "size", "p50", "of int8's", "")
_NAMES: Mapping[Which, str] = {"integers": "int8", "kept": "int8, these in float", "fp32": "fp32"}


def kept_lines(kept: Kept) -> list[str]:
    """Which layers, why these, and what then computes in float."""
    lines = [_answer(kept)]
    if kept.layers:
        convs = ", ".join(map(one_line, kept.convs))
        lines.append(f"in float: {len(kept.convs)} of {kept.conv_count} convolutions, which are {convs}")
    if kept.tried:
        runs = ", ".join(f"{tried.layer_count}: {_bound(tried.effect)}" for tried in kept.tried)
        lines.append(f"upper bounds of the drop by the number of layers, each from an exact run on all images: {runs}")
    return lines


def _answer(kept: Kept) -> str:
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


def kept_rows(kept: Kept) -> list[tuple[str, ...]]:
    """One row a network, in the columns of `KEPT_HEADER`."""
    files = {file.network: file for file in kept.cost.files} if kept.cost is not None else {}
    rows = [_row("integers", 0, kept, kept.before, files)]
    if kept.layers:
        rows.append(_row("kept", len(kept.convs), kept, kept.after, files))
    if files:
        rows.append(_row("fp32", kept.conv_count, kept, None, files))
    return rows


def _row(which: Which, in_float: int, kept: Kept, effect: ExactEffect | None, files: Mapping[Which, FileCost]) -> tuple[str, ...]:
    figures: tuple[str, ...] = (NOTHING, NOTHING, NOTHING, "")
    if effect is not None:
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


def kept_note(kept: Kept) -> str:
    """What the columns mean, in one sentence."""
    drop = (
        "top-1 of fp32 less that of the integers, with a paired 95% interval"
        if kept.drop_of == "top-1"
        else "share of images with another top-1 class than fp32's, with a 95% interval (no image is labelled)"
    )
    return f"SQNR, agreement, drop: the exact integer run; drop: {drop}; {_cost_note(kept.cost, bool(kept.layers))}"


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
