"""The baseline: a small file to commit, with what must not change unnoticed. It holds no time, as times of two days say nothing.

Per file: hashes, operators, size, estimates and each image's answer; for all of them the images, the reference's answers and the
versions of the tools. `regressions.py` compares it with a report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_export.documents import Schema
from squeeze_export.errors import BadInput
from squeeze_export.gate.checks import judged_rows
from squeeze_export.gate.consistency import check_answers
from squeeze_export.results import Answers, ComparedImages, Measurement, Report

BASELINE = Path("squeeze-export-baseline.json")
MOST_FILES = 1000

_KERNEL_CLASSES = {
    "amx_int8": "AMX",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx2": "AVX2",
    "i8mm": "Arm i8mm",
    "asimddp": "Arm dot product",
}
"""Instruction set -> class of the int8 kernels that runtimes choose for it, the best first."""
_DEVICE_FACTS = ("gpu", "device_name")
_UPDATE = "squeeze-export gate REPORT.json --update"


@dataclass(frozen=True)
class BaselineFile:
    """What one file was.

    Attributes:
        label: the file and where it ran, as checks name it.
        artifact: file name.
        target: file format.
        scheme: how numbers are carried.
        sha256: of the file.
        table_sha256: of the table that its integers come from; empty if it has none.
        size_bytes: of the file.
        operators: operator type -> count; empty if the file was not audited.
        kept_float: convolutions in float on request.
        kernels: the kernel family that the runtime reported.
        kernel_class: of the CPU that ran it.
        estimated_by: the compiler that estimated it, with its version; empty without an estimate.
        cycles: of the accelerator's clock, by that estimate.
        sram_bytes: likewise.
        answers: of each of `Baseline.images`; None if it was not validated.
    """

    label: str
    artifact: str
    target: str
    scheme: str
    sha256: str
    table_sha256: str
    size_bytes: int
    operators: Mapping[str, int]
    kept_float: tuple[str, ...] = ()
    kernels: str = ""
    kernel_class: str = ""
    estimated_by: str = ""
    cycles: int | None = None
    sram_bytes: int | None = None
    answers: Answers | None = None


@dataclass(frozen=True)
class Baseline:
    """What a report is compared with.

    Attributes:
        schema_version: of the file.
        created: of the report that it was made from, UTC, ISO 8601.
        network: its name.
        checkpoint_sha256: of its checkpoint; empty if the report did not tell.
        names_classes: whether the files tell the classes' names.
        cpu: model of the machine's CPU; empty if unknown.
        kernel_class: of this CPU.
        tool_versions: package -> version.
        files: the judged rows.
        images: that were compared on, without their names; None if none were.
    """

    schema_version: int
    created: str
    network: str
    checkpoint_sha256: str
    names_classes: bool
    cpu: str
    kernel_class: str
    tool_versions: Mapping[str, str]
    files: tuple[BaselineFile, ...]
    images: ComparedImages | None = None


SCHEMA = Schema(Baseline, "baseline", 1, {})


def kernel_class(facts: Mapping[str, Any]) -> str:
    """`AVX-512 VNNI`, `AVX2`, `Arm dot product` ...: what decides how a CPU runs int8, and with which rounding.

    Args:
        facts: of a machine, as `measure.host.host_facts` gives them: `isa`, `architecture`.
    """
    flags = facts.get("isa")
    known = [name for flag, name in _KERNEL_CLASSES.items() if isinstance(flags, list | tuple) and flag in flags]
    return known[0] if known else str(facts.get("architecture", "unknown"))


def kernel_class_of(row: Measurement, report: Report) -> str:
    """Of the machine that a row ran on: the report's own, or a board. Off the CPU it is the device's name."""
    if row.device and row.device != "cpu":
        return next((str(row.facts[name]) for name in _DEVICE_FACTS if name in row.facts), row.device)
    return kernel_class(row.facts if row.facts.get("on") else report.host)


def checkpoint_of(report: Report) -> str:
    """SHA-256 of the report's checkpoint; empty if it does not tell."""
    rows = (row.checkpoint_sha256 for row in report.measurements if row.checkpoint_sha256)
    return str(report.network.get("checkpoint_sha256", "")) or next(rows, "")


def names_classes(report: Report) -> bool:
    """Whether the files tell the classes' names."""
    return report.network.get("labels") != "none"


def baseline_of(report: Report) -> Baseline:
    """The baseline that a report makes.

    Raises:
        BadInput: a row failed, or none was measured.
    """
    rows = judged_rows(report)
    failed = [row for row in rows if row.status == "failed"]
    if failed:
        raise BadInput(f"`{failed[0].label}` failed: a baseline is made of what is sound", hint=failed[0].reason or None)
    sound = [row for row in rows if row.status == "ok"]
    if not sound:
        raise BadInput("the report has no row that a baseline could be made of")
    return Baseline(
        SCHEMA.version,
        report.created,
        str(report.network.get("name", "")),
        checkpoint_of(report),
        names_classes(report),
        str(report.host.get("cpu", "")),
        kernel_class(report.host),
        dict(report.tool_versions),
        tuple(_file_of(row, report) for row in sound),
        replace(report.images, names=None) if report.images is not None else None,
    )


def _file_of(row: Measurement, report: Report) -> BaselineFile:
    estimate, audit = row.estimate, row.audit
    return BaselineFile(
        row.label,
        row.artifact,
        row.target,
        row.scheme,
        row.sha256,
        row.table_sha256,
        row.size_bytes,
        dict(audit.operators) if audit is not None else {},
        audit.kept_float if audit is not None else (),
        row.kernels,
        kernel_class_of(row, report) if row.runtime else "",
        estimate.tool if estimate is not None else "",
        estimate.cycles if estimate is not None else None,
        estimate.used_bytes.get("sram", 0) if estimate is not None else None,
        row.answers,
    )


def read_baseline(path: Path, *, schema: Schema[Baseline] = SCHEMA) -> Baseline:
    """Reads a baseline of this schema version or an older one.

    Raises:
        BadInput: there is none, or it is damaged.
    """
    if not path.exists():
        raise BadInput(f"there is no baseline `{path}`", hint=f"make one: {_UPDATE}")
    hint = f"name another with --baseline, or delete it and make it again: {_UPDATE}"
    try:
        found = schema.read(path)
    except BadInput as err:
        raise BadInput(err.message, hint=err.hint or hint) from err
    try:
        _check(found)
    except BadInput as err:
        raise BadInput(f"the baseline `{path}` is damaged: {err.message}", hint=err.hint or hint) from err
    return found


def _check(baseline: Baseline) -> None:
    if len(baseline.files) > MOST_FILES:
        raise BadInput(f"it has `{len(baseline.files)}` files, more than {MOST_FILES:,}")
    check_answers(baseline.images, [file.answers for file in baseline.files if file.answers is not None])


def check_same_network(baseline: Baseline, report: Report, path: Path) -> None:
    """Refuses a baseline of another network, or of other weights.

    Raises:
        BadInput: it is.
    """
    name, checkpoint = str(report.network.get("name", "")), checkpoint_of(report)
    if baseline.network != name:
        raise BadInput(
            f"the baseline `{path}` is of the network `{baseline.network}`, not of `{name}`", hint=f"make one: {_UPDATE}"
        )
    if baseline.checkpoint_sha256 and checkpoint and baseline.checkpoint_sha256 != checkpoint:
        raise BadInput(
            f"the baseline `{path}` is of another checkpoint of `{name}` (`{baseline.checkpoint_sha256[:12]}`, here "
            f"`{checkpoint[:12]}`)",
            hint=f"after a training make it again: {_UPDATE}",
        )


@dataclass(frozen=True)
class BaselineChange:
    """What an update changed.

    Attributes:
        about: the file's label; empty for what all share.
        what: in a word.
        before: empty if it is new.
        after: empty if it is gone.
    """

    about: str
    what: str
    before: str
    after: str


def changes(before: Baseline | None, after: Baseline) -> tuple[BaselineChange, ...]:
    """What differs between two baselines; everything if there was none."""
    old = {file.label: file for file in before.files} if before is not None else {}
    new = {file.label: file for file in after.files}
    found = [BaselineChange("", name, *pair) for name, pair in _shared(before, after).items()]
    found += [BaselineChange(label, "file", _short(old[label].sha256), "") for label in old if label not in new]
    for label, file in new.items():
        if label not in old:
            found.append(BaselineChange(label, "file", "", _short(file.sha256)))
            continue
        known = _shown(old[label])
        found += [BaselineChange(label, name, known[name], value) for name, value in _shown(file).items()]
        found.append(BaselineChange(label, "answers", *_answers(before, old[label], after, file)))
    return tuple(change for change in found if change.before != change.after)


def _shared(before: Baseline | None, after: Baseline) -> dict[str, tuple[str, str]]:
    def shown(baseline: Baseline | None) -> dict[str, str]:
        if baseline is None:
            return {}
        count = baseline.images.hashes.count if baseline.images is not None else 0
        named = {"checkpoint": _short(baseline.checkpoint_sha256), "cpu": baseline.cpu, "kernels": baseline.kernel_class}
        return {**named, "images": f"{count:,}", **baseline.tool_versions}

    first, second = shown(before), shown(after)
    return {name: (first.get(name, ""), second.get(name, "")) for name in first | second}


def _shown(file: BaselineFile) -> dict[str, str]:
    return {
        "file": _short(file.sha256),
        "integers": _short(file.table_sha256),
        "size": f"{file.size_bytes:,} bytes",
        "operators": listed(file.operators),
        "kept in float": ", ".join(file.kept_float),
        "kernels": ", ".join(filter(None, (file.kernels, file.kernel_class))),
        "cycles": "" if file.cycles is None else f"{file.cycles:,}",
        "SRAM": "" if file.sram_bytes is None else f"{file.sram_bytes:,} bytes",
    }


def _answers(before: Baseline | None, old: BaselineFile, after: Baseline, new: BaselineFile) -> tuple[str, str]:
    """How many images in common are answered otherwise."""
    if before is None or before.images is None or after.images is None or old.answers is None or new.answers is None:
        return ("", "") if (old.answers is None) == (new.answers is None) else ("" if old.answers is None else "validated", "")
    places, here = in_common(before.images, after.images)
    flipped = int((old.answers.top1.numbers()[places] != new.answers.top1.numbers()[here]).sum())
    return ("", f"{flipped:,} of {len(places):,} images answered otherwise") if flipped else ("", "")


def in_common(before: ComparedImages, after: ComparedImages) -> tuple[Any, Any]:
    """(M,) places of the images that both have, by their hashes, in the one and in the other."""
    _, places, here = np.intersect1d(before.hashes.numbers(), after.hashes.numbers(), return_indices=True)
    return places, here


def listed(counts: Mapping[str, int]) -> str:
    """`26 Conv, 8 Concat`."""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _short(digest: str) -> str:
    return digest[:12]
