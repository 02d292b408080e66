"""Compares an artifact's logits with the reference's: agreement, SQNR, KL, and top-1 if there are labels.

Everything is counted image by image (`compared_each`), then summed (`summed`), exactly: no batch and no order shows in a figure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import Ending, FloatArray
from squeeze_export.errors import BadInput, Refused
from squeeze_export.measure.statistics import paired_difference, wilson
from squeeze_export.results import NOT_RUN, UNLABELLED, Accuracy, Interval, OutputError, sqnr_db

_SAME = 1e-6
"""Relative difference up to which two outputs are the same but for rounding."""
_SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)

Doubles = NDArray[np.float64]
Classes = NDArray[np.int64]
Records = NDArray[np.void]

_BEST = 5

ANSWER = np.dtype([("top1", "<i4"), ("label_rank", "<i4"), ("margin", "<f4")])
"""What one image was answered: the class with the highest logit, `NOT_RUN` if it was not run; how many classes stand before the
label, -1 without one; the highest logit less the next one, 0 with one output."""

COMPARED = np.dtype(
    [
        *((name, ANSWER[name]) for name in ("top1", "label_rank", "margin")),
        *(("top5_shared", "<i4"), ("signal", "<f8"), ("noise", "<f8"), ("divergence", "<f8"), ("wanted", "<f8"), ("value", "<f8")),
    ]
)
"""`ANSWER`, and how far it is from the reference's: how many of the reference's best five are among the best five; the sum of the
squared reference outputs, that of the squared differences, KL(reference, artifact) in nats; the reference's first output and the
artifact's, which of a network with one output are all."""


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
    truth = np.full(len(logits), UNLABELLED, np.int64) if labels is None else labels
    added = summed(
        answers_each(reference_logits, truth), compared_each(reference_logits, logits, truth, ending=ending), logits.shape[1]
    )
    return Tally(
        count=sums.count + added.count,
        class_count=added.class_count,
        same_top1=sums.same_top1 + added.same_top1,
        top5_overlap=sums.top5_overlap + added.top5_overlap,
        signal=sums.signal + added.signal,
        noise=sums.noise + added.noise,
        divergence=sums.divergence + added.divergence,
        labelled_count=sums.labelled_count + added.labelled_count,
        top1=sums.top1 + added.top1,
        top5=sums.top5 + added.top5,
        reference_top1=sums.reference_top1 + added.reference_top1,
        reference_top5=sums.reference_top5 + added.reference_top5,
        lost=sums.lost + added.lost,
        won=sums.won + added.won,
        values=sums.values + added.values,
        reference_classes=sums.reference_classes | added.reference_classes,
        first=sums.first or tuple(map(float, reference_logits[0])),
        reference_varies=sums.reference_varies or varies(reference_logits, sums.first or reference_logits[0]),
    )


def answers_each(logits: FloatArray, labels: Classes) -> Records:
    """What each image was answered, by the reference or by an artifact.

    Args:
        logits: (N, C) float32, or probabilities.
        labels: (N,) int64 class indices, `UNLABELLED` (-1) for an image without one.

    Returns:
        (N,) of `ANSWER`.
    """
    answers = np.zeros(len(logits), ANSWER)
    answers["top1"] = logits.argmax(axis=1)
    answers["label_rank"] = NOT_RUN
    known = labels != UNLABELLED
    of_label = logits[known, labels[known], None]
    before = np.arange(logits.shape[1]) < labels[known, None]  # the first of equal ones counts as the higher
    answers["label_rank"][known] = ((logits[known] > of_label) | ((logits[known] == of_label) & before)).sum(axis=1)
    if logits.shape[1] > 1:
        two = np.partition(logits, -2, axis=1)[:, -2:]
        answers["margin"] = two[:, 1] - two[:, 0]
    return answers


def compared_each(reference_logits: FloatArray, logits: FloatArray, labels: Classes, *, ending: Ending = "logits") -> Records:
    """What each image was answered and how far that is from the reference; arguments as of `tally`, all labels given.

    Returns:
        (N,) of `COMPARED`; what stands there of an image does not depend on the others.
    """
    each = np.zeros(len(logits), COMPARED)
    answers = answers_each(logits, labels)
    for name in ANSWER.names or ():
        each[name] = answers[name]
    reference, output = reference_logits.astype(np.float64), logits.astype(np.float64)
    signal, reference_log, output_log = _distributions(reference, output, ending)
    # The best classes come from the logits: rounding in a softmax or sigmoid could make two of them tie.
    each["top5_shared"] = (_among_best(reference_logits) & _among_best(logits)).sum(axis=1)
    divergence = np.exp(reference_log) * (reference_log - output_log)
    for index in range(len(logits)):  # row by row, so that no row's sum depends on how many there are
        each["signal"][index] = np.square(signal[index]).sum()
        each["noise"][index] = np.square(signal[index] - output[index]).sum()
        each["divergence"][index] = divergence[..., index, :].sum()
    each["wanted"], each["value"] = signal[:, 0], output[:, 0]
    return each


def summed(reference: Records, each: Records, class_count: int) -> Tally:
    """The sums over images, rounded once: their order does not matter.

    Args:
        reference: (N,) of `ANSWER`, what the reference answered.
        each: (N,) of `COMPARED`.
        class_count: classes of the network.

    Returns:
        the sums, but for `first` and `reference_varies`.
    """
    known = each["label_rank"] >= 0
    best = min(_BEST, class_count)
    right, reference_right = (answers["label_rank"][known] == 0 for answers in (each, reference))
    pairs = zip(each["wanted"].tolist(), each["value"].tolist(), strict=True) if class_count == 1 else ()
    return Tally(
        count=len(each),
        class_count=class_count,
        same_top1=int((reference["top1"] == each["top1"]).sum()),
        top5_overlap=int(each["top5_shared"].sum()) / best,
        signal=math.fsum(each["signal"]),
        noise=math.fsum(each["noise"]),
        divergence=math.fsum(each["divergence"]),
        labelled_count=int(known.sum()),
        top1=int(right.sum()),
        top5=int((each["label_rank"][known] < best).sum()),
        reference_top1=int(reference_right.sum()),
        reference_top5=int((reference["label_rank"][known] < best).sum()),
        lost=int((reference_right & ~right).sum()),
        won=int((right & ~reference_right).sum()),
        values=tuple(pairs),
        reference_classes=frozenset(np.unique(reference["top1"]).tolist()),
    )


def varies(logits: FloatArray, first: FloatArray | tuple[float, ...]) -> bool:
    """Whether any of (N, C) outputs differs by more than rounding from the (C,) of another image."""
    largest = float(np.abs(np.asarray(first, np.float64)).max())
    return not np.allclose(logits.astype(np.float64), first, rtol=_SAME, atol=_SAME * largest)


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


def check_comparable(reference_logits: FloatArray, logits: FloatArray, labels: Classes | None) -> None:
    """Refuses outputs that `compared_each` cannot compare; arguments and errors are `tally`'s."""
    _check(Tally(), reference_logits, logits, labels)


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


def _among_best(outputs: FloatArray) -> NDArray[np.bool_]:
    """(N, C) whether a class is among the best five, or among all of fewer; of equal ones the lowest index counts as the better."""
    count = min(_BEST, outputs.shape[1])
    last = np.partition(outputs, -count, axis=1)[:, -count, None]
    above, equal = outputs > last, outputs == last
    among: NDArray[np.bool_] = above | (equal & (equal.cumsum(axis=1) <= count - above.sum(axis=1, keepdims=True)))
    return among


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
