"""The report of a job, its rows and their figures, and `report.json`, the same as JSON.

The JSON document has the fields of these dataclasses, so nothing else describes its shape. It is strict JSON: infinity and NaN are
the strings `inf`, `-inf`, `nan`. The parts of a report come first, then `Report`, the schema version with the migrations of older
documents, the writer and the reader.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from squeeze_export.core import Assumption, Audit, Evidence, Placement
from squeeze_export.errors import BadInput
from squeeze_export.files import write_text

Status = Literal["ok", "skipped", "failed"]
Pace = Literal["faster", "no gain", "slower", "open"]
"""What the interval of int8's speed-up shows: above 1, at most the least gain that counts, below 1, or none of these."""
Outcome = Literal["faster", "not faster", "unknown"]


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval (95% unless its field says otherwise)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class OutputError:
    """How far the one output of a network is from the reference's: such a network has no classes to agree on.

    Attributes:
        mean: mean absolute difference.
        p95: what 95% of the absolute differences do not exceed.
        correlation: Pearson's; None where one of the two is constant.
        spread: standard deviation of the reference's output, to compare with.
    """

    mean: float
    p95: float
    correlation: float | None
    spread: float


@dataclass(frozen=True)
class Accuracy:
    """An artifact compared with the fp32 reference on the same decoded pixels.

    Attributes:
        count: images compared.
        top1_agreement: share of images whose top-1 class equals the reference's, with a Wilson interval.
        top5_agreement: mean overlap of the two top-5 sets, 0 to 1.
        sqnr_db: 10 log10(sum of squared reference logits / sum of squared differences), dB.
        kl: mean Kullback-Leibler divergence of the softmax outputs, reference to artifact, nats.
        labelled_count: images that carried a label (0: the fields below are None).
        top1: share right, 0 to 1.
        top5: share with the label among the best five.
        reference_top1: the same of the reference.
        reference_top5: the same of the reference.
        top1_delta_pp: top-1 of the artifact minus the reference's, percentage points, with its paired interval.
        lost: images that the reference had right and the artifact has wrong.
        won: the other way round.
        error: of a network with one output, whose shares above say nothing; None of others.
        reference_class_count: in how many classes the reference puts the images; 0 in older reports, which did not count them.
        reference_varies: False if the reference's output is the same for each image.
    """

    count: int
    top1_agreement: Interval
    top5_agreement: float
    sqnr_db: float
    kl: float
    labelled_count: int = 0
    top1: float | None = None
    top5: float | None = None
    reference_top1: float | None = None
    reference_top5: float | None = None
    top1_delta_pp: Interval | None = None
    lost: int | None = None
    won: int | None = None
    error: OutputError | None = None
    reference_class_count: int = 0
    reference_varies: bool = True


def sqnr_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise), of sums of squares, in dB; infinite without noise."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


@dataclass(frozen=True)
class Latency:
    """The samples of one session and their statistics.

    Attributes:
        samples_ns: every timed inference, in order.
        warmup_count: inferences before the first sample.
        batch: images per inference.
        threads: intra-op threads.
        p50_ms: percentiles over `samples_ns`.
        p90_ms: likewise.
        p99_ms: likewise.
        speedup: p50 of the fp32 file over this p50, with a bootstrap interval: same rounds, device and runtime. An fp32 file that
            runs in bf16 is compared with itself in float32.
        repeat: p50 of the first half of the rounds over that of the second, with a bootstrap interval: 1 where nothing disturbs.
            None with too few rounds.
        other_load: cores that other processes kept busy meanwhile; None where it is not known.
        busy: whether these and the session's own threads were more than there are cores; False with too few rounds.
    """

    samples_ns: tuple[int, ...]
    warmup_count: int
    batch: int
    threads: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    speedup: Interval | None = None
    repeat: Interval | None = None
    other_load: float | None = None
    busy: bool = False

    @property
    def unsteady(self) -> bool:
        """Whether the two halves of the rounds may differ by more than 10%, a choice."""
        return self.repeat is not None and (self.repeat.high > 1.1 or self.repeat.low < 1 / 1.1)


@dataclass(frozen=True)
class LayerCycles:
    """A compiler's estimate for one operator.

    Attributes:
        operator: its type in the file.
        name: of its output.
        device: where it would run.
        cycles: of the accelerator's clock.
        macs: multiply-accumulates that the accelerator would do.
        mac_use: share (0 to 1) of the accelerator's multipliers that would be busy.
    """

    operator: str
    name: str
    device: str
    cycles: int
    macs: int
    mac_use: float


@dataclass(frozen=True)
class Estimate:
    """A compiler's estimate for a chip that is not here. Never a measurement.

    Attributes:
        tool: name and version.
        settings: the assumed chip: accelerator, system configuration, memory mode.
        clock_mhz: its clock.
        cycles: of this clock, for one inference.
        inference_ms: the same in milliseconds.
        used_bytes: memory (`sram`, `off chip flash` ...) -> bytes that the network needs in it.
        moved_bytes: memory -> bytes read and written by one inference.
        moved_gb_s: memory -> the same in 10^9 bytes per second, at the estimated speed.
        layers: the estimate of each operator.
    """

    tool: str
    settings: Mapping[str, str]
    clock_mhz: float
    cycles: int
    inference_ms: float
    used_bytes: Mapping[str, int]
    moved_bytes: Mapping[str, int]
    moved_gb_s: Mapping[str, float]
    layers: tuple[LayerCycles, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """One row of the report.

    Attributes:
        target: file format.
        scheme: how numbers are carried.
        artifact: file name, relative to the report; for files of one name as much of their paths as tells them apart.
        sha256: of the artifact.
        size_bytes: of the artifact.
        runtime: that ran it.
        device_asked: the requested device.
        device: the device that the runtime reports; empty if nothing ran.
        kernels: the kernel family that the runtime reports.
        evidence: measured, or how the figures were obtained instead.
        status: `ok`, `skipped` or `failed`.
        reason: why it was skipped or failed.
        accuracy: None if not validated.
        latency: None if not timed.
        placement: None if nothing ran.
        audit: what is inside the file.
        recipe: the method that chose its integers; empty if it has none.
        checkpoint_sha256: of its checkpoint; empty if unknown.
        estimate: a compiler's, for a chip that is not here.
        facts: what else the runtime reports about the device and this file on it: `arena_bytes`, `governor` ...
    """

    target: str
    scheme: str
    artifact: str
    sha256: str
    size_bytes: int
    runtime: str = ""
    device_asked: str = "cpu"
    device: str = ""
    kernels: str = ""
    evidence: Evidence = "measured"
    status: Status = "ok"
    reason: str = ""
    accuracy: Accuracy | None = None
    latency: Latency | None = None
    placement: Placement | None = None
    audit: Audit | None = None
    recipe: str = ""
    checkpoint_sha256: str = ""
    estimate: Estimate | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> RowName:
        """Which row of the report it is."""
        return RowName(self.artifact, self.sha256, self.scheme, self.runtime)

    @property
    def shows_losses(self) -> bool:
        """Whether a loss of top-1 could be seen: it was compared on images with labels."""
        return self.accuracy is not None and self.accuracy.top1_delta_pp is not None


@dataclass(frozen=True)
class Difference:
    """How much two runs of the same integers differ on the same images.

    Attributes:
        first: a row's target and runtime, or `integer run`: the exact one.
        second: likewise.
        count: images compared.
        largest_steps: largest difference of a logit, in steps of the last convolution's output.
        top1_agreement: share (0 to 1) of images with the same top-1 class.
        first_layer: the first layer of `second` whose output, from the same integers, differs from the integer run by more than
            one step (rounding explains one). Empty if there is none, None if it was not searched for.
    """

    first: str
    second: str
    count: int
    largest_steps: float
    top1_agreement: float
    first_layer: str | None = None


@dataclass(frozen=True)
class RowName:
    """Which row of the report: the file, and what ran it.

    Attributes:
        artifact: file name.
        sha256: of the artifact.
        scheme: how numbers are carried.
        runtime: that ran it.
    """

    artifact: str
    sha256: str
    scheme: str
    runtime: str


@dataclass(frozen=True)
class Rival:
    """A row that does not compute in integers, timed in the same rounds as an int8 row.

    Attributes:
        row: which one.
        speedup: its p50 over int8's, with a bootstrap interval; for the fp32 row this is the int8 row's own `speedup`.
        pace: what `speedup` shows.
    """

    row: RowName
    speedup: Interval
    pace: Pace


@dataclass(frozen=True)
class Verdict:
    """Whether an int8 file is worth it on one runtime and device.

    Attributes:
        int8: the row in question.
        device: the device that the runtime reports.
        outcome: `faster` than every rival, `not faster` than at least one, or `unknown`.
        rivals: the rows that it was compared with.
        ship: the row to ship; None if the timing does not tell, if it would be the int8 row and no label could show what that
            loses, or if every row loses top-1 against the reference.
        otherwise: the row to ship instead if the loss of top-1 shown by `ship` is too much; None if it shows none.
        round_count: rounds behind the intervals.
        rounds_needed: rounds that would probably tell; None unless `outcome` is `unknown` and more rounds are likely to help.
    """

    int8: RowName
    device: str
    outcome: Outcome
    rivals: tuple[Rival, ...]
    ship: RowName | None = None
    otherwise: RowName | None = None
    round_count: int = 0
    rounds_needed: int | None = None


@dataclass(frozen=True)
class Ratio:
    """Two files that were timed in the same rounds, where no `Latency.speedup` compares them.

    Attributes:
        row: which one.
        first: the one that it is compared with.
        speedup: p50 of `first` over p50 of `row`, with a bootstrap interval: above 1, `row` is faster.
    """

    row: RowName
    first: RowName
    speedup: Interval


@dataclass(frozen=True)
class Report:
    """Everything that one command found out. `report.json` holds all of it; the table and the page are made from it.

    Attributes:
        schema_version: of `report.json`; older files are migrated when they are read.
        created: UTC, ISO 8601.
        tool_versions: package -> version.
        host: machine facts: CPU, cores, ISA flags, governor, memory, OS.
        network: name, classes, input size, parameters, checkpoint hash.
        calibration: image count, source, recipe, table hash; empty if nothing was calibrated.
        evaluation: image count, source, whether labelled, and a note if the images are not independent.
        measurements: the rows.
        warnings: that were shown to the user.
        differences: the files of several targets against the integer run and against each other.
        verdicts: whether int8 is worth it, for each int8 row that was timed together with others.
        assumptions: what the checkpoint does not tell about the network, and nobody else told.
        ratios: of files that `bench` timed.
    """

    schema_version: int
    created: str
    tool_versions: Mapping[str, str]
    host: Mapping[str, Any]
    network: Mapping[str, Any]
    calibration: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    measurements: tuple[Measurement, ...]
    warnings: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    ratios: tuple[Ratio, ...] = ()


@dataclass(frozen=True)
class CurvePoint:
    """The exact integer run of a table that was calibrated on a part of the images.

    Attributes:
        image_count: images of the part.
        agreement: share of the evaluation images with the fp32 reference's top-1 class, with its Wilson interval.
        sqnr_db: of the logits, dB.
        to_largest_pp: agreement minus that of the largest part on the same images, percentage points, with its paired interval.
    """

    image_count: int
    agreement: Interval
    sqnr_db: float
    to_largest_pp: Interval


@dataclass(frozen=True)
class Curve:
    """Agreement and SQNR against the number of calibration images.

    Attributes:
        points: by image count; each part contains the one before it.
        enough_count: the smallest count from which on every agreement interval overlaps that of the largest part.
        seed: of the order of the images.
        recipe: the method that chose the integers.
        evaluation: `source`, `image_count`, and a `note` if the images are not the user's own evaluation images.
    """

    points: tuple[CurvePoint, ...]
    enough_count: int
    seed: int
    recipe: str
    evaluation: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As JSON has it; an infinite SQNR is `"inf"`, as in `report.json`."""
        return {
            **to_json(self, "curve"),
            "evidence": "the exact integer run (graph/integer.py) against the fp32 reference; no runtime took part",
        }


SCHEMA_VERSION = 7
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: lambda document: document,  # 2 added `measurements[].recipe` and `differences`, which may be missing
    2: lambda document: document,  # 3 added `measurements[].checkpoint_sha256` and `verdicts`, which may be missing
    3: lambda document: document,  # 4 added `measurements[].audit.kept_float`, which may be missing
    4: lambda document: document,  # 5 added `estimate` and `facts` of measurements, and to placements where operators ran
    5: lambda document: document,  # 6 added `assumptions` and `measurements[].audit.untold`, which may be missing
    6: lambda document: (
        document
    ),  # 7 added `ratios`, to accuracies the error and the reference's variety, to latencies how steady they are
}
"""Version -> function that makes the next version's document. A change of `Report` adds one, and its test."""

_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def to_json(value: Any, where: str = "report") -> Any:
    """A report, or any part of one, as JSON: dicts, lists, strings, numbers, booleans and None.

    Numpy scalars become plain ones, tuples become lists, infinity and NaN the strings `inf`, `-inf`, `nan`.

    Args:
        value: a `Report` or another frozen dataclass, or a value in it.
        where: its name, for the error.

    Raises:
        TypeError: JSON cannot hold a value in it; the error names its field.
    """
    if dataclasses.is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name), f"{where}.{field.name}") for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_key(key, where): to_json(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, np.generic):
        return to_json(value.item(), where)
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{where} holds a {type(value).__name__}, which JSON has no form for")


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{where} has the key {key!r}, which is no string")
    return key


def from_json(document: Any) -> Report:
    """Reads a report from its JSON, of this version or an older one.

    Raises:
        BadInput: a newer version, or a field that is missing, unknown or of the wrong type; the error names the field.
    """
    if not isinstance(document, dict):
        raise BadInput(f"a report is a JSON object, not `{_kind(document)}`")
    version = document.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise BadInput("`schema_version` is missing or no integer: this is no report of squeeze-export")
    if version > SCHEMA_VERSION:
        raise BadInput(
            f"the report has schema version `{version}`, this program knows up to {SCHEMA_VERSION}",
            hint="pip install --upgrade squeeze-export",
        )
    while version < SCHEMA_VERSION:
        if version not in MIGRATIONS:
            raise BadInput(f"the report has schema version `{version}`, which no release has written")
        document = {**MIGRATIONS[version](document), "schema_version": version + 1}
        version += 1
    report: Report = _read(Report, document, "")
    return report


def _read(kind: Any, value: Any, where: str) -> Any:
    """Checks a value against the type annotation `kind` and converts it; `where` is its path in the document."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):  # X | None is the only union of the report's types
        return None if value is None else _read(next(part for part in arguments if part is not type(None)), value, where)
    if origin is Literal:
        _expect(isinstance(value, str) and value in arguments, " or ".join(arguments), value, where)
        return value
    if origin is tuple:
        _expect(isinstance(value, list), "a list", value, where)
        return tuple(_read(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is Mapping:
        _expect(isinstance(value, dict), "an object", value, where)
        return {key: _read(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _read_fields(kind, value, where)
    if kind is float:
        if isinstance(value, str) and value in _NOT_FINITE:
            return _NOT_FINITE[value]
        _expect(isinstance(value, int | float) and not isinstance(value, bool), "a number", value, where)
        _expect(isinstance(value, float) or abs(value) < 1e300, "a number of this size", value, where)
        return float(value)
    _expect(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), _WORDS[kind], value, where)
    return value


def _read_fields(kind: Any, value: Any, where: str) -> Any:
    prefix = f"{where}." if where else ""
    _expect(isinstance(value, dict), "an object", value, where)
    hints = get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise BadInput(f"the report has an unknown field `{prefix}{unknown[0]}`")
    known = {}
    for part in dataclasses.fields(kind):
        if part.name in value:
            known[part.name] = _read(hints[part.name], value[part.name], f"{prefix}{part.name}")
        elif part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING:
            raise BadInput(f"the report lacks the field `{prefix}{part.name}`")
    return kind(**known)


_WORDS = {str: "a string", int: "an integer", bool: "true or false"}


def _expect(fits: bool, wanted: str, value: Any, where: str) -> None:
    if not fits:
        raise BadInput(f"the report's field `{where}` is {_kind(value)}, not {wanted}")


def _kind(value: Any) -> str:
    """A value as an error message shows it: cut if it is long."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    shown = json.dumps(value)
    return shown if len(shown) <= 40 else f"{shown[:36]}..."


def write_json(report: Report, path: Path) -> None:
    """Writes `report.json`, whole or not at all.

    Raises:
        BadInput: the file cannot be written.
        TypeError: as of `to_json`.
    """
    write_text(path, json.dumps(to_json(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Report:
    """Reads what `write_json` wrote, of this version or an older one.

    Raises:
        BadInput: the file cannot be read, or is no strict JSON or no report.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as err:
        raise BadInput(f"cannot read `{path}`: {err.strerror}") from err
    except (ValueError, RecursionError) as err:
        raise BadInput(f"`{path}` is no JSON: {err}") from err
    return from_json(document)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
