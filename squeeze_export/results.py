"""What a job found out: the report, its rows and the figures in them, and `report.json`, their JSON form.

The types are frozen and plain. The JSON document has their own shape, field by field, so there is no second description to keep in
step: `Report` first, its parts above it, then the version of the shape with what brings older documents up to it, then the writer
and the reader. It is strict JSON: infinity and NaN are the strings `inf`, `-inf`, `nan`.
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

from squeeze_export.core import Audit, Evidence, Placement
from squeeze_export.errors import BadInput
from squeeze_export.files import write_text

Status = Literal["ok", "skipped", "failed"]
Pace = Literal["faster", "no gain", "slower", "open"]
"""What an interval of int8's speed-up says: above 1, not above the least gain that counts, below 1, or neither."""
Outcome = Literal["faster", "not faster", "unknown"]


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval (95% unless its field says otherwise)."""

    value: float
    low: float
    high: float


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


def sqnr_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise), of sums of squares, in dB; infinite without noise."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


@dataclass(frozen=True)
class Latency:
    """Kept samples of one session, and what follows from them.

    Attributes:
        samples_ns: every timed inference, in the order it ran.
        warmup_count: inferences before the first sample.
        batch: images per inference.
        threads: intra-op threads.
        p50_ms: percentiles over `samples_ns`.
        p90_ms: likewise.
        p99_ms: likewise.
        speedup: fp32's p50 over this p50 on the same device in the same rounds, with a bootstrap interval; on the same runtime,
            except that an fp32 file in bf16 is compared with itself in float32.
    """

    samples_ns: tuple[int, ...]
    warmup_count: int
    batch: int
    threads: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    speedup: Interval | None = None


@dataclass(frozen=True)
class LayerCycles:
    """What a compiler expects of one operator.

    Attributes:
        operator: of the file, by its type.
        name: of what it makes.
        device: that it would run on.
        cycles: of the accelerator's clock.
        macs: multiply-accumulates as the accelerator carries them out.
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
    """What a compiler expects of a chip that is not here. Never a measurement.

    Attributes:
        tool: name and version.
        settings: what the chip is taken to be: accelerator, system configuration, memory mode.
        clock_mhz: the stated clock.
        cycles: of that clock, of one inference.
        inference_ms: the same in milliseconds.
        used_bytes: memory -> bytes that the network takes of it: `sram`, `off chip flash` ...
        moved_bytes: memory -> bytes read and written by one inference.
        moved_gb_s: memory -> 10^9 bytes a second that this is at the estimated speed.
        layers: each operator's part.
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
        artifact: file name, relative to the report.
        sha256: of the artifact.
        size_bytes: of the artifact.
        runtime: what ran it.
        device_asked: what the user named.
        device: what the runtime says it used; empty where nothing ran.
        kernels: kernel family that the runtime says it used.
        evidence: how the figures came about.
        status: `ok`, `skipped` or `failed`.
        reason: why it was skipped or failed.
        accuracy: None where not validated.
        latency: None where not timed.
        placement: None where nothing ran.
        audit: what is inside the file.
        recipe: how its integers came about; empty where it has none.
        checkpoint_sha256: of the checkpoint that it was made from; empty where that is not known.
        estimate: what a compiler expects of a chip that is not here.
        facts: what else the runtime told of the device and of this file on it: `arena_bytes`, `governor` ...
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


@dataclass(frozen=True)
class Difference:
    """How far two runs of the same integers are apart on the same images.

    Attributes:
        first: a row's target and runtime, or `integer run`: the exact one.
        second: likewise.
        count: images compared.
        largest_steps: largest difference of a logit, in steps of the last convolution's output.
        top1_agreement: share (0 to 1) of images with the same top-1 class.
        first_layer: where `first` is the integer run: the first layer that makes, from the same integers, something that is more
            than one step away from it (rounding explains one); empty where there is none, None where it was not looked for.
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
        runtime: what ran it.
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
        speedup: its p50 over int8's, with a bootstrap interval; of the fp32 row it is the int8 row's own `speedup`.
        pace: of int8 beside it, by `speedup`.
    """

    row: RowName
    speedup: Interval
    pace: Pace


@dataclass(frozen=True)
class Verdict:
    """Whether an int8 file is worth it on one runtime and device.

    Attributes:
        int8: the row in question.
        device: that the runtime says it used.
        outcome: `faster` than every rival; `not faster` than at least one; `unknown` where that cannot be told.
        rivals: what it was compared with.
        ship: what to ship; None where that cannot be told, or where no row keeps the reference's top-1.
        otherwise: what to ship where the loss of top-1 that `ship` has shown is too much; None where it has shown none.
        round_count: that the intervals rest on.
        rounds_needed: about as many would tell; None unless `outcome` is `unknown` and more rounds are likely to help.
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
class Report:
    """Everything one command found out. `report.json` is this; every other form is written from it.

    Attributes:
        schema_version: of the JSON form; older files are migrated on reading.
        created: UTC, ISO 8601.
        tool_versions: package -> version.
        host: machine facts: CPU, cores, ISA flags, governor, memory, OS.
        network: name, classes, input size, parameters, checkpoint hash.
        calibration: image count, source, recipe, table hash; empty where nothing was calibrated.
        evaluation: image count, source, whether labelled, and a note where the images are not independent.
        measurements: the rows.
        warnings: what the user was told on the way.
        differences: the files of several targets against the integer run and against each other.
        verdicts: whether int8 is worth it, for each int8 row that was timed beside others.
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


@dataclass(frozen=True)
class CurvePoint:
    """The integers that a part of the calibration images gives, in the exact integer run.

    Attributes:
        image_count: images of the part.
        agreement: share of the evaluation images with the fp32 reference's top-1 class, with its Wilson interval.
        sqnr_db: of the logits, dB.
        to_largest_pp: agreement less that of the largest part on the same images, percentage points, with its paired interval.
    """

    image_count: int
    agreement: Interval
    sqnr_db: float
    to_largest_pp: Interval


@dataclass(frozen=True)
class Curve:
    """Agreement and SQNR against the number of calibration images.

    Attributes:
        points: by image count; each part holds the one before it.
        enough_count: the smallest count from which on every agreement interval reaches that of the largest part.
        seed: that put the images in order.
        recipe: how the integers were made.
        evaluation: `source`, `image_count`, and a `note` where the images are not the user's own evaluation images.
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


SCHEMA_VERSION = 5
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: lambda document: document,  # 2 added `measurements[].recipe` and `differences`, which may be missing
    2: lambda document: document,  # 3 added `measurements[].checkpoint_sha256` and `verdicts`, which may be missing
    3: lambda document: document,  # 4 added `measurements[].audit.kept_float`, which may be missing
    4: lambda document: document,  # 5 added `estimate` and `facts` of measurements, and to placements where operators ran
}
"""Version -> what turns a document of that version into one of the next. A change of `Report` adds one, and its test."""

_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def to_json(value: Any, where: str = "report") -> Any:
    """A report, or any part of one, as JSON: dicts, lists, strings, numbers, booleans and None.

    Numpy scalars become plain ones, tuples become lists, infinity and NaN the strings `inf`, `-inf`, `nan`.

    Args:
        value: a `Report` or another frozen dataclass, or a value in it.
        where: its name, for the error.

    Raises:
        TypeError: it holds what JSON has no form for; the field is named.
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
    """A report from its JSON form, of this version or an older one.

    Raises:
        BadInput: a newer version, or a field that is missing, unknown or of a wrong kind; the field is named.
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
    """`value` as the type annotation `kind` says; `where` is its path in the document."""
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
    """A value as an error message shows it: short ones themselves, long ones by their kind."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    shown = json.dumps(value)
    return shown if len(shown) <= 40 else f"{shown[:36]}..."


def write_json(report: Report, path: Path) -> None:
    """Writes `report.json`, whole or not at all.

    Raises:
        BadInput: the file cannot be written.
        TypeError: as `to_json`.
    """
    write_text(path, json.dumps(to_json(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Report:
    """Reads what `write_json` wrote, of this version or an older one.

    Raises:
        BadInput: the file cannot be read, is no strict JSON, or no report.
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
