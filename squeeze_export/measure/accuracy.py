"""Compares an artifact's logits with the reference's, batch by batch: agreement, SQNR, KL, and top-1 if there are labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import Ending, FloatArray
from squeeze_export.errors import BadInput, Refused
from squeeze_export.measure.statistics import paired_difference, wilson
from squeeze_export.results import UNLABELLED, Accuracy, Interval, OutputError, sqnr_db

_SAME = 1e-6
"""Relative difference up to which two outputs are the same but for rounding."""
_SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)

Doubles = NDArray[np.float64]
Classes = NDArray[np.int64]


@dataclass(frozen=True)
class Tally:
    """The sums behind an `Accuracy`; `tally` adds a batch to them.

    Attributes:
        count: images so far.
        class_count: classes; 0 before the first batch.
        same_top1: images whose top-1 class equals the reference's.
        top5_overlap: sum over images of the share (0 to 1) of the reference's top 5 found in the artifact's.
        signal: sum of the squared reference outputs.
        noise: sum of the squared differences.
        divergence: sum over images of KL(reference, artifact), nats.
        labelled_count: images with a label.
        top1: labelled images that the artifact has right.
        top5: labelled images with the label among its best five.
        reference_top1: as `top1`, of the reference.
        reference_top5: as `top5`, of the reference.
        lost: labelled images that the reference has right and the artifact has wrong.
        won: the other way round.
        values: the reference's output and the artifact's, of each image of a network with one output; empty for others.
        reference_classes: those that the reference found.
        first: the reference's output for the first image.
        reference_varies: whether it differs for any other.
    """

    count: int = 0
    class_count: int = 0
    same_top1: int = 0
    top5_overlap: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    divergence: float = 0.0
    labelled_count: int = 0
    top1: int = 0
    top5: int = 0
    reference_top1: int = 0
    reference_top5: int = 0
    lost: int = 0
    won: int = 0
    values: tuple[tuple[float, float], ...] = ()
    reference_classes: frozenset[int] = frozenset()
    first: tuple[float, ...] = ()
    reference_varies: bool = False


def tally(
    sums: Tally, reference_logits: FloatArray, logits: FloatArray, labels: Classes | None = None, *, ending: Ending = "logits"
) -> Tally:
    """Adds a batch.

    The top class is the one with the highest logit, the first one of equal ones (int8 logits do tie), on both sides.

    Args:
        sums: of the batches before; `Tally()` at first.
        reference_logits: (N, C) float32, of the fp32 reference.
        logits: (N, C) float32, of the artifact; probabilities if it ends in a softmax or a sigmoid.
        labels: (N,) int64 class indices, `UNLABELLED` (-1) for an image without one; or None.
        ending: what the artifact ends in. Behind a softmax or a sigmoid the SQNR is of the probabilities on both sides, not of the
            logits; behind a sigmoid the divergence is the sum of the classes' own, each of which is or is not there.

    Raises:
        BadInput: the shapes differ, a label names no class, or the reference is not finite.
        Refused: the artifact's output is not finite.
    """
    _check(sums, reference_logits, logits, labels)
    reference = reference_logits.astype(np.float64)
    output = logits.astype(np.float64)
    signal, reference_log, output_log = _distributions(reference, output, ending)
    # The best classes come from the logits: rounding in a softmax or sigmoid could make two of them tie.
    reference_best, best = _best(reference_logits), _best(logits)
    overlap = (reference_best[:, :, None] == best[:, None, :]).sum() / best.shape[1]
    known = np.zeros(len(logits), dtype=bool) if labels is None else labels != UNLABELLED
    truth = np.zeros(0, dtype=np.int64) if labels is None else labels[known]
    reference_right = reference_best[known, 0] == truth
    right = best[known, 0] == truth
    values = tuple(zip(signal[:, 0].tolist(), output[:, 0].tolist(), strict=True)) if logits.shape[1] == 1 else ()
    first = sums.first or tuple(reference[0].tolist())
    varies = not np.allclose(reference, first, rtol=_SAME, atol=_SAME * max(map(abs, first)))
    return Tally(
        count=sums.count + len(logits),
        class_count=logits.shape[1],
        same_top1=sums.same_top1 + int((reference_best[:, 0] == best[:, 0]).sum()),
        top5_overlap=sums.top5_overlap + float(overlap),
        signal=sums.signal + float(np.square(signal).sum()),
        noise=sums.noise + float(np.square(signal - output).sum()),
        divergence=sums.divergence + float((np.exp(reference_log) * (reference_log - output_log)).sum()),
        labelled_count=sums.labelled_count + len(truth),
        top1=sums.top1 + int(right.sum()),
        top5=sums.top5 + int((best[known] == truth[:, None]).sum()),
        reference_top1=sums.reference_top1 + int(reference_right.sum()),
        reference_top5=sums.reference_top5 + int((reference_best[known] == truth[:, None]).sum()),
        lost=sums.lost + int((reference_right & ~right).sum()),
        won=sums.won + int((right & ~reference_right).sum()),
        values=sums.values + values,
        reference_classes=sums.reference_classes | frozenset(reference_best[:, 0].tolist()),
        first=first,
        reference_varies=sums.reference_varies or varies,
    )


def accuracy_of(sums: Tally) -> Accuracy:
    """The figures and intervals that follow from the sums.

    Raises:
        BadInput: no image was compared.
    """
    if sums.count == 0:
        raise BadInput("no image to compare on", hint="give a folder of images with --eval")
    agreement = Accuracy(
        count=sums.count,
        top1_agreement=wilson(sums.same_top1, sums.count),
        top5_agreement=sums.top5_overlap / sums.count,
        sqnr_db=sqnr_db(sums.signal, sums.noise),
        # Rounding can leave a sum of zeros just below 0, but no divergence is negative.
        kl=max(0.0, sums.divergence / sums.count),
        error=_output_error(np.array(sums.values)) if sums.values else None,
        reference_class_count=len(sums.reference_classes),
        reference_varies=sums.reference_varies or sums.count == 1,
    )
    labelled = sums.labelled_count
    if labelled == 0 or sums.class_count == 1:
        return agreement
    delta = paired_difference(sums.lost, sums.won, labelled)
    return replace(
        agreement,
        labelled_count=labelled,
        top1=sums.top1 / labelled,
        top5=sums.top5 / labelled,
        reference_top1=sums.reference_top1 / labelled,
        reference_top5=sums.reference_top5 / labelled,
        top1_delta_pp=Interval(100 * delta.value, 100 * delta.low, 100 * delta.high),
        lost=sums.lost,
        won=sums.won,
    )


def _output_error(values: Doubles) -> OutputError:
    """`values`: (N, 2), the reference's output and the artifact's."""
    reference, output = values.T
    difference, spread = np.abs(reference - output), float(reference.std())
    correlation = float(np.corrcoef(reference, output)[0, 1]) if spread > 0 and output.std() > 0 else None
    return OutputError(float(difference.mean()), float(np.percentile(difference, 95)), correlation, spread)


def compare(
    reference_logits: FloatArray, logits: FloatArray, labels: Classes | None = None, *, ending: Ending = "logits"
) -> Accuracy:
    """`tally` and `accuracy_of` on everything at once; arguments and errors are theirs."""
    return accuracy_of(tally(Tally(), reference_logits, logits, labels, ending=ending))


def near_chance(accuracy: float, class_count: int, count: int) -> bool:
    """Whether the reference's own accuracy is so low that the preprocessing or the label order must be wrong.

    On a scale from chance (0) to perfect (1), the one-sided 95% Wilson bounds must lie below 0.01 (lower) and below 0.25 (upper):
    the accuracy cannot be told from guessing, but can be told from that of a working network. This takes a few images: with 1,000
    classes, none right of 8 does not suffice, none right of 9 does.

    Args:
        accuracy: top-1 of the reference, 0 to 1.
        class_count: classes, at least 1.
        count: labelled images.
    """
    if class_count < 2 or count < 1:
        return False
    chance = 1 / class_count
    interval = wilson(round(accuracy * count), count, confidence=0.90)
    return interval.low < chance + 0.01 * (1 - chance) and interval.high < chance + 0.25 * (1 - chance)


def _check(sums: Tally, reference_logits: FloatArray, logits: FloatArray, labels: Classes | None) -> None:
    if logits.ndim != 2 or logits.shape[1] == 0 or reference_logits.shape != logits.shape:
        raise BadInput(f"outputs of shape `{logits.shape}` cannot be compared with the reference's `{reference_logits.shape}`")
    class_count = logits.shape[1]
    if sums.count and sums.class_count != class_count:
        raise BadInput(f"a batch of `{class_count}` classes after batches of `{sums.class_count}`")
    if not np.isfinite(reference_logits).all():
        raise BadInput("the fp32 reference gives NaN or infinity", hint="the weights or the preprocessing do not fit")
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise Refused(f"the artifact gives NaN or infinity on `{bad}` of {len(logits)} images")
    if labels is not None:
        if labels.shape != (len(logits),):
            raise BadInput(f"labels of shape `{labels.shape}` for {len(logits)} images")
        wrong = labels[(labels < UNLABELLED) | (labels >= class_count)]
        if len(wrong):
            raise BadInput(
                f"label `{wrong[0]}` names no class: the network has {class_count}",
                hint="give the class names in index order with --labels",
            )


def _best(outputs: FloatArray) -> Classes:
    """(N, min(5, C)) the best classes, best first; of equal ones the lowest index first."""
    return np.argsort(-outputs, axis=1, kind="stable")[:, :5].astype(np.int64)


def _distributions(reference: Doubles, output: Doubles, ending: Ending) -> tuple[Doubles, Doubles, Doubles]:
    """What the artifact should give, and the logarithms of both sides' probabilities: (N, C), or (2, N, C) of yes and no."""
    if ending == "logits":
        return reference, _log_softmax(reference), _log_softmax(output)
    if ending == "sigmoid":
        reference_log, probabilities = -np.logaddexp(0, [-reference, reference]), np.stack([output, 1 - output])
        signal: Doubles = np.exp(reference_log[0])
    else:
        reference_log, probabilities = _log_softmax(reference), output
        signal = np.exp(reference_log)
    # Those in few bits are exactly 0, which alone would make KL infinite.
    return signal, reference_log, np.log(np.maximum(probabilities, _SMALLEST_PROBABILITY))


def _log_softmax(logits: Doubles) -> Doubles:
    """(N, C) natural logarithm of the softmax; the row's maximum is subtracted first so that exp cannot overflow."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Doubles = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
