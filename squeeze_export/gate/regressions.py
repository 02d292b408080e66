"""A report against a baseline: what must be the same is compared exactly, answers are compared image by image.

Where the machine differs, what differs with it is undecided and not failed: int8 kernels of another class saturate and round
otherwise, and integers that are calibrated on another CPU come from other float sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from squeeze_export.gate.baseline import Baseline, BaselineFile, in_common, kernel_class, kernel_class_of, names_classes
from squeeze_export.gate.bounds import Bounds
from squeeze_export.gate.checks import drop_check, judged_rows, some
from squeeze_export.gate.paired import paired
from squeeze_export.gate.results import Check
from squeeze_export.results import NOT_RUN, UNLABELLED, Measurement, Report

_ROUNDED = 0.01
"""Share of images, with near ties, whose answer the rounding of another CPU's floats may change."""
_GROWTH = 0.01
"""Share by which a file of other integers or tool versions may be larger: some formats write numbers as text."""

_IN_A_TABLE = "scales, weights, biases, labels or calibration images"


@dataclass(frozen=True, eq=False)
class _Pairs:
    """The images that baseline and report have in common.

    Attributes:
        before: (M,) their places in the baseline.
        here: (M,) their places in the report.
    """

    before: NDArray[np.int64]
    here: NDArray[np.int64]


def regression_checks(report: Report, baseline: Baseline, bounds: Bounds) -> tuple[Check, ...]:
    """Compares a report with a baseline of its network.

    Raises:
        NotInstalled: a bound on top-1 or top-5 needs scipy.
    """
    versions = version_changes(baseline.tool_versions, report.tool_versions)
    pairs = None
    if baseline.images is not None and report.images is not None:
        pairs = _Pairs(*in_common(baseline.images, report.images))
    found = [*_image_checks(report, baseline, pairs), *_label_checks(report, baseline, pairs)]
    rows = [row for row in judged_rows(report) if row.status == "ok"]
    for file in baseline.files:
        alike = [row for row in rows if row.label == file.label]
        elsewhere = [row for row in rows if row.artifact == file.artifact]  # the file on another runtime
        row = next(iter(alike or (elsewhere if len(elsewhere) == 1 else ())), None)
        if row is None:
            found.append(Check("file", file.label, "failed", "is in the baseline, and not in the report", "baseline"))
            continue
        rows.remove(row)
        found += _Pair(file, row, report, baseline, versions, pairs).checks(bounds)
    found += [Check("file", row.label, "skipped", "is not in the baseline: --update adds it", "baseline") for row in rows]
    return tuple(replace(check, against="baseline") for check in found)


def version_changes(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """`onnx 1.22.0 -> 1.23.2, numpy 2.4.5 -> 2.4.6`; empty if nothing changed."""
    names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    return ", ".join(f"{name} {before.get(name, 'none')} -> {after.get(name, 'none')}" for name in names)


def _image_checks(report: Report, baseline: Baseline, pairs: _Pairs | None) -> list[Check]:
    """Whether the same images were compared on, and the reference answers them as it did."""
    before, here = baseline.images, report.images
    if before is None:
        return []
    count = before.hashes.count
    if here is None or pairs is None:
        return [Check("images", "", "failed", f"nothing was validated here; the baseline was, on {count:,} images")]
    if not len(pairs.here):
        message = f"none of the baseline's {count:,} images is among the {here.hashes.count:,} here, so no answers can be compared"
        return [Check("images", "", "undecided", message, needs="the baseline's images")]
    message = f"{len(pairs.here):,} of the baseline's {count:,} images are here; answers are compared on these"
    found = [Check("images", "", "passed", message)]
    changed = before.reference.top1.numbers()[pairs.before] != here.reference.top1.numbers()[pairs.here]
    if not changed.any():
        return [*found, Check("reference", "", "passed", "the fp32 reference answers as in the baseline")]
    message = f"the fp32 reference answers {int(changed.sum()):,} of {len(changed):,} images otherwise than in the baseline"
    other = _other_machine(baseline, report)
    if other and changed.mean() <= _ROUNDED:  # floats round otherwise there, which changes near ties alone
        machine = f"a machine with {baseline.cpu or 'its CPU'} ({baseline.kernel_class})"
        return [*found, _undecided("reference", f"{message}: {other}", machine)]
    message += ": was the preprocessing changed (channel order RGB or BGR, mean, std, crop), or how the checkpoint is read?"
    return [*found, Check("reference", "", "failed", message)]


def _label_checks(report: Report, baseline: Baseline, pairs: _Pairs | None) -> list[Check]:
    """Whether labels were lost: of the images, or the classes' names in the files."""
    found = []
    if baseline.names_classes and not names_classes(report):
        found.append(
            Check("labels", "", "failed", "the files tell no names of classes, the baseline's do: was the label file lost?")
        )
    if baseline.images is not None and report.images is not None and pairs is not None and len(pairs.here):
        before, here = baseline.images.labels.numbers()[pairs.before], report.images.labels.numbers()[pairs.here]
        lost = int(((before != UNLABELLED) & (here == UNLABELLED)).sum())
        other = int(((before != UNLABELLED) & (before != here)).sum()) - lost
        if lost:
            message = f"{lost:,} images have lost their label: was the label file lost, or the folders' classes?"
            found.append(Check("labels", "", "failed", message))
        elif other:
            found.append(Check("labels", "", "failed", f"{other:,} images have another label than in the baseline"))
    if not found:
        found.append(Check("labels", "", "passed", "no label was lost"))
    return found


def _undecided(name: str, message: str, needs: str) -> Check:
    return Check(name, "", "undecided", message, needs=needs)


def _other_machine(baseline: Baseline, report: Report) -> str:
    """`another CPU (EPYC here, Xeon there)` or other kernels; empty if neither differs."""
    here, cpu = kernel_class(report.host), str(report.host.get("cpu", ""))
    if here != baseline.kernel_class:
        return _other_kernels(baseline.kernel_class, here)
    return f"another CPU ({cpu or 'unknown'} here, {baseline.cpu or 'unknown'} in the baseline)" if cpu != baseline.cpu else ""


def _other_kernels(there: str, here: str) -> str:
    return f"other kernels ({here} here, {there} in the baseline)"


@dataclass(frozen=True, eq=False)
class _Pair:
    """A file of the baseline, and its row in the report.

    Attributes:
        file: then.
        row: now.
        report: of the row.
        baseline: of the file.
        versions: of tools, that changed.
        pairs: the images in common; None if one of the two has none.
    """

    file: BaselineFile
    row: Measurement
    report: Report
    baseline: Baseline
    versions: str
    pairs: _Pairs | None

    def checks(self, bounds: Bounds) -> list[Check]:
        """All comparisons of this file."""
        found = [*self._integers(), self._bytes(), self._size(), *self._operators(), *self._estimate(), *self._answers(bounds)]
        return [replace(check, row=self.row.label) for check in found]

    @property
    def _same_integers(self) -> bool:
        return self.file.table_sha256 == self.row.table_sha256

    def _because(self) -> str:
        return f" (since then {self.versions})" if self.versions else ""

    def _integers(self) -> list[Check]:
        if not self.file.table_sha256:
            return []
        if self._same_integers:
            return [Check("integers", "", "passed", "the same integers")]
        if not self.row.table_sha256:
            return [Check("integers", "", "failed", "the report does not tell from which table they come, the baseline does")]
        other = _other_machine(self.baseline, self.report)
        if other:
            message = f"another table than in the baseline, made on {other}"
            return [_undecided("integers", message, "a table that both are exported from (--table)")]
        return [Check("integers", "", "failed", f"another table than in the baseline: {_IN_A_TABLE} changed{self._because()}")]

    def _bytes(self) -> Check:
        if self.row.sha256 == self.file.sha256:
            return Check("bytes", "", "passed", "the same file, byte for byte")
        if not self._same_integers:
            return Check("bytes", "", "skipped", "its integers differ")
        if self.versions:
            return Check("bytes", "", "skipped", f"written by other versions: {self.versions}")
        what = "the same integers and" if self.file.table_sha256 else "the same"
        message = f"other bytes than in the baseline, from {what} tool versions: was another form asked for?"
        return Check("bytes", "", "failed", message)

    def _size(self) -> Check:
        before, here = self.file.size_bytes, self.row.size_bytes
        most = before if self._same_integers and not self.versions else int(before * (1 + _GROWTH))
        message = f"{here:,} bytes, {before:,} in the baseline"
        if here > most:
            return Check("size", "", "failed", message + self._because(), value=here, bound=most, unit="bytes")
        return Check("size", "", "passed", message, value=here, bound=most, unit="bytes")

    def _operators(self) -> list[Check]:
        if not self.file.operators:
            return []
        audit = self.row.audit
        if audit is None:
            return [Check("operators", "", "failed", "the file was not audited, the baseline's was")]
        found = []
        added = [name for name in audit.kept_float if name not in self.file.kept_float]
        if added:
            message = f"computes {some(added)} in float, which the baseline does in integers"
            found.append(Check("float-layers", "", "failed", message))
        before, here = dict(self.file.operators), dict(audit.operators)
        if before == here:
            return [*found, Check("operators", "", "passed", "the same operators")]
        names = [name for name in sorted(before | here) if before.get(name, 0) != here.get(name, 0)]
        shown = ", ".join(f"{name} {before.get(name, 0)} -> {here.get(name, 0)}" for name in names)
        return [*found, Check("operators", "", "failed", f"other operators than in the baseline: {shown}{self._because()}")]

    def _estimate(self) -> list[Check]:
        file, estimate = self.file, self.row.estimate
        if not file.estimated_by or file.cycles is None:
            return []
        if estimate is None:
            return [Check("cycles", "", "failed", "no compiler estimated it, one did for the baseline")]
        if estimate.tool != file.estimated_by:
            message = f"estimated by {estimate.tool}, the baseline by {file.estimated_by}"
            return [Check(name, "", "skipped", message) for name in ("cycles", "sram")]
        return [
            Check(
                name,
                "",
                "passed" if here <= before else "failed",
                f"{here:,} {unit}, {before:,} in the baseline",
                value=here,
                bound=before,
                unit=unit,
            )
            for name, unit, here, before in (
                ("cycles", "cycles", estimate.cycles, file.cycles),
                ("sram", "bytes", estimate.used_bytes.get("sram", 0), file.sram_bytes or 0),
            )
        ]

    def _answers(self, bounds: Bounds) -> list[Check]:
        before, here = self.file.answers, self.row.answers
        if before is None:
            return []
        if here is None:
            return [Check("answers", "", "failed", "it was validated in the baseline, and not here")]
        if self.pairs is None or not len(self.pairs.here):
            return []  # which is said of the images
        old, new = before.top1.numbers()[self.pairs.before], here.top1.numbers()[self.pairs.here]
        both = (old != NOT_RUN) & (new != NOT_RUN)
        count, flipped = int(both.sum()), int((old[both] != new[both]).sum())
        if not count:
            return [Check("answers", "", "undecided", "no image was run both here and for the baseline", needs="the same images")]
        found = [replace(self._flips(flipped, count), value=flipped, bound=0, unit="images")]
        ranks = before.label_rank.numbers()[self.pairs.before], here.label_rank.numbers()[self.pairs.here]
        for word, best, bound in (("max-top1-drop", 1, bounds.max_top1_drop), ("max-top5-drop", 5, bounds.max_top5_drop)):
            answers = paired(*ranks, best)
            if bound is not None and answers.count:
                check = replace(drop_check(f"top-{best}", answers, bound, "the baseline"), name=word, bound=bound, unit="pp")
                if check.state == "failed" and self._other_kernels:
                    check = replace(check, state="undecided", message=f"{check.message}: {self._other_kernels}", needs=self._needs)
                found.append(check)
        return found

    @property
    def _other_kernels(self) -> str:
        there, here = self.file.kernel_class, kernel_class_of(self.row, self.report)
        if there != here:
            return _other_kernels(there, here)
        return _other_kernels(self.file.kernels, self.row.kernels) if self.file.kernels != self.row.kernels else ""

    @property
    def _needs(self) -> str:
        kernels = f" and the kernels {self.file.kernels}" if self.file.kernels else ""
        return f"a machine with {self.file.kernel_class}{kernels}"

    def _flips(self, flipped: int, count: int) -> Check:
        if not flipped:
            return Check("answers", "", "passed", f"all {count:,} images answered as in the baseline")
        message = f"{flipped:,} of {count:,} images answered otherwise than in the baseline"
        other = self._other_kernels or (flipped <= _ROUNDED * count and _other_machine(self.baseline, self.report))
        if other:
            return _undecided("answers", f"{message}: {other}", self._needs)
        if not self._same_integers:
            return Check("answers", "", "skipped", f"{message}: its integers differ; --max-top1-drop judges what that costs")
        return Check("answers", "", "failed", f"{message}, by the same integers on the same kernels{self._because()}")
