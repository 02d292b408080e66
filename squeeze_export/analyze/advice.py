"""What would help the worst layers: each remedy is tried on the images, and reported with its gain there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from squeeze_export.analyze.results import Advice, Cause, LayerSensitivity
from squeeze_export.analyze.saturation import TensorCount
from squeeze_export.analyze.sensitivity import Sensitivity, Subject, gain, spared
from squeeze_export.analyze.simulation import Plan, effects
from squeeze_export.core import ByteArray, Progress, silent
from squeeze_export.graph.quantized import Quantization
from squeeze_export.quant.ranges import quantization_of

WORTH_DB = 0.1
WORTH_SHARE = 0.1
"""A remedy that gains less than this, or less than this share of the layer's best gain, is not reported: every other range
rounds differently, and so gains or loses a little by chance."""
FEW_IMAGES = 64
"""With fewer calibration images, new ranges for all layers together are tried too."""
_FINER = "finer rounding of its weights: at most this"
_WIDER = "16-bit activations (--scheme int16x8): at most this"


_Trial: TypeAlias = tuple[partial[Advice], Plan]
"""An advice that lacks only its gain, and the run that measures this gain."""


def advice_for(
    subject: Subject,
    sensitivity: Sensitivity,
    counted: Mapping[str, TensorCount],
    pixels: ByteArray,
    *,
    calibration_count: int,
    threads: int,
    progress: Progress = silent,
) -> tuple[Advice, ...]:
    """Tries the remedies.

    Args:
        subject: from `analysis.subject_of`.
        sensitivity: of these pixels.
        counted: layer -> what was counted on all images, including these.
        pixels: (N, H, W, 3) uint8, N at least 1.
        calibration_count: images that the table was calibrated on; 0 if unknown.
        threads: images in flight.
        progress: told of the images.

    Returns:
        The advice that is worth it: for the worst layers in their order, then for the whole network. The new ranges come from all
        counted images, including those that measure the gain, so a gain is the most that images like these could give.
    """
    layers = {layer.name: layer for layer in sensitivity.layers}
    trials = [trial for name in sensitivity.worst for trial in _trials(subject, layers[name], counted)]
    if 0 < calibration_count < FEW_IMAGES:
        trials.append(_all_ranges(subject, counted, calibration_count))
    plans = [plan for _, plan in trials]
    found = effects(subject.simulator, subject.full, plans, pixels, threads=threads, what="trying remedies", progress=progress)
    advice = [advise(gain(effect, sensitivity.whole)) for (advise, _), effect in zip(trials, found, strict=True)]
    best = {name: max(one.gain_db for one in advice if one.layer == name) for name in {one.layer for one in advice}}
    worth = [one for one in advice if one.gain_db >= max(WORTH_DB, WORTH_SHARE * best[one.layer])]
    return (*worth, *(one for one in _whole(sensitivity) if one.gain_db >= WORTH_DB))


def _trials(subject: Subject, layer: LayerSensitivity, counted: Mapping[str, TensorCount]) -> list[_Trial]:
    """What may help one layer: the range of these images, and the part with the larger share in float."""
    name, full, found = layer.name, subject.full, []
    if name in counted:
        before, after = full.outputs[name], _seen_range(subject, layer.scale_group, counted)
        wider, higher = f"{after.scale / before.scale:.2f} times as wide", _high(before) > 0
        reach = f"{_high(after) / _high(before):.2f} times as high" if higher else wider  # all values may be negative
        small = _high(after) > _high(before) or _low(after) < _low(before)
        cause: Cause = "range too small" if small else "range too wide"
        mend = f"a {'wider' if small else 'narrower'} range: calibrate with images like these"
        others = [other for other in layer.scale_group if other != name]
        shared = f" (shared with {' and '.join(others)})" if others else ""
        tried = f"its range{shared} as these images have it: {reach}"
        outputs = {**full.outputs, **dict.fromkeys(layer.scale_group, after)}
        found.append((partial(Advice, name, cause, mend, tried), replace(full, outputs=outputs)))
    if layer.weights_share > layer.output_share:
        found.append((partial(Advice, name, "weights", _FINER, "its weights in float"), spared(full, weights=[name])))
    else:
        found.append((partial(Advice, name, "activations", _WIDER, "its output in float"), spared(full, outputs=[name])))
    return found


def _all_ranges(subject: Subject, counted: Mapping[str, TensorCount], calibration_count: int) -> _Trial:
    outputs = dict(subject.full.outputs)
    for name in counted:
        outputs[name] = _seen_range(subject, subject.groups[name], counted)
    mend = f"calibrate with more than {calibration_count} images; a few hundred are usual (calibrate --curve tells)"
    advise = partial(Advice, "", "few calibration images", mend, "every range as these images have it")
    return advise, replace(subject.full, outputs=outputs)


def _whole(sensitivity: Sensitivity) -> list[Advice]:
    """All weights, or all activations, in float: runs that exist already."""
    finer = gain(sensitivity.outputs_alone, sensitivity.whole)
    wider = gain(sensitivity.weights_alone, sensitivity.whole)
    if finer > wider:
        return [Advice("", "weights", "finer rounding of all weights: at most this", "all weights in float", finer)]
    return [Advice("", "activations", "16-bit activations (int16x8): at most this", "all activations in float", wider)]


def _seen_range(subject: Subject, group: Sequence[str], counted: Mapping[str, TensorCount]) -> Quantization:
    members = [name for name in group if name in counted]
    high = max(counted[name].high for name in members)
    low = min(counted[name].low(subject.full.outputs[name]) for name in members)
    return quantization_of(low, high, subject.quantized.scheme)


def _high(q: Quantization) -> float:
    return (255 - q.zero_point) * q.scale


def _low(q: Quantization) -> float:
    return -q.zero_point * q.scale
