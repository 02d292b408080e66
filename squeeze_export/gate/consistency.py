"""Whether a document agrees with itself, before anything is computed from it: files that come from elsewhere may say anything."""

from __future__ import annotations

from collections.abc import Iterable

from squeeze_export.errors import BadInput
from squeeze_export.results import MOST_IMAGES, Accuracy, Answers, ComparedImages, Latency, Report

_MOST_THREADS = 1024


def check_report(report: Report) -> None:
    """Checks what the gate reads of a report.

    Raises:
        BadInput: counts that cannot be, a row without samples, or answers that are not those of its images.
    """
    for row in report.measurements:
        if row.accuracy is not None:
            _check_accuracy(row.accuracy, row.artifact)
        if row.latency is not None:
            _check_latency(row.latency, row.artifact)
    check_answers(report.images, [row.answers for row in report.measurements if row.answers is not None])


def check_answers(images: ComparedImages | None, answers: Iterable[Answers]) -> None:
    """Unpacks all that is packed once, so that nothing later meets damaged data, and no more of it than there are images.

    Raises:
        BadInput: damaged data, too many images, or answers that are not as many as the images.
    """
    count = images.hashes.count if images is not None else 0
    if count > MOST_IMAGES:
        raise BadInput(f"it has `{count}` images, more than {MOST_IMAGES:,}")
    shared = (images.hashes, images.labels, images.reference.top1, images.reference.label_rank) if images is not None else ()
    for packed in (*shared, *(part for each in answers for part in (each.top1, each.label_rank))):
        if packed.count != count:
            raise BadInput(f"it has `{packed.count}` answers to `{count}` images")
        packed.numbers()


def _check_accuracy(accuracy: Accuracy, artifact: str) -> None:
    count, labelled, lost, won = accuracy.count, accuracy.labelled_count, accuracy.lost or 0, accuracy.won or 0
    if not 1 <= count <= MOST_IMAGES or not 0 <= labelled <= count:
        raise BadInput(f"`{artifact}` was compared on `{count}` images, of which `{labelled}` have a label")
    if min(lost, won) < 0 or lost + won > labelled:
        raise BadInput(f"`{artifact}` lost `{lost}` and won `{won}` of `{labelled}` images with a label")
    share = accuracy.top1_agreement.value
    if not 0 <= share <= 1:
        raise BadInput(f"`{artifact}` has an agreement of `{share}`, which is a share from 0 to 1")


def _check_latency(latency: Latency, artifact: str) -> None:
    if not latency.samples_ns or min(latency.samples_ns) < 0:
        raise BadInput(f"`{artifact}` was timed, and has no samples, or some below 0")
    if not 1 <= latency.threads <= _MOST_THREADS:
        raise BadInput(f"`{artifact}` was timed with `{latency.threads}` threads")
