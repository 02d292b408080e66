"""The report of a job, its rows and their figures, and `report.json`, the same as JSON.

`documents.py` writes and reads it by the annotations of these dataclasses. The parts of a report come first, then `Report`, then
the versions of its schema.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import Assumption, Audit, Evidence, Placement
from squeeze_export.documents import Schema, nothing_new, strict_text, to_json
from squeeze_export.errors import BadInput

UNLABELLED = -1
NOT_RUN = -1

Status = Literal["ok", "skipped", "failed"]
Pace = Literal["faster", "no gain", "slower", "open"]
"""What the interval of int8's speed-up shows: above 1, at most the least gain that counts, below 1, or none of these."""
Outcome = Literal["faster", "not faster", "unknown"]


EXACT_DB = 100.0
"""SQNR from which on only float32's rounding differs: bfloat16 has about 45 dB, float16 60 to 80, float32 more than 120."""


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
        kl: mean Kullback-Leibler divergence of the softmax outputs, reference to artifact, nats; of a file that ends in a sigmoid,
            the sum of those of its classes.
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


@dataclass(frozen=True)
class PackedNumbers:
    """A number for each of many images, kept small.

    Attributes:
        count: numbers.
        data: as little-endian int64, deflated, in base64.
    """

    count: int
    data: str

    @classmethod
    def of(cls, numbers: NDArray[np.int64]) -> PackedNumbers:
        """Packs (N,) int64."""
        return cls(len(numbers), _deflated(numbers.astype("<i8").tobytes()))

    def numbers(self) -> NDArray[np.int64]:
        """(count,) int64.

        Raises:
            BadInput: the data is not that of `count` numbers.
        """
        return np.frombuffer(_inflated(self.data, 8 * self.count, exact=True), "<i8").astype(np.int64)


@dataclass(frozen=True)
class PackedText:
    """A text for each of many images, kept small.

    Attributes:
        count: texts, of at most 4,096 bytes each.
        data: as UTF-8 with a zero byte between two, deflated, in base64.
    """

    count: int
    data: str

    @classmethod
    def of(cls, texts: Sequence[str]) -> PackedText:
        """Packs texts; what no UTF-8 holds (an undecodable file name) is escaped."""
        return cls(len(texts), _deflated("\0".join(texts).encode("utf-8", "backslashreplace")))

    def texts(self) -> tuple[str, ...]:
        """The texts.

        Raises:
            BadInput: the data is not that of `count` texts.
        """
        found = _inflated(self.data, 4097 * self.count).decode("utf-8", "replace").split("\0") if self.count else []
        if len(found) != self.count:
            raise BadInput(f"packed data holds {len(found)} texts, not {self.count}")
        return tuple(found)


_MOST_PACKED_BYTES = 800_000_000
"""Of what a file says that it holds; the answers of 50,000 images are 400,000."""


def _deflated(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode("ascii")


def _inflated(text: str, most: int, *, exact: bool = False) -> bytes:
    """At most `most` bytes, however many the data would give."""
    if most > _MOST_PACKED_BYTES:
        raise BadInput(f"packed data in the file is said to be of {most:,} bytes")
    try:
        inflate = zlib.decompressobj()
        data = inflate.decompress(base64.b64decode(text, validate=True), most + 1)
    except (binascii.Error, ValueError, zlib.error) as err:
        raise BadInput("packed data in the file is damaged") from err
    if not inflate.eof or (exact and len(data) != most):
        raise BadInput("packed data in the file has another length than it says")
    return data


@dataclass(frozen=True)
class Answers:
    """What each image was answered, in the order of `Report.images`.

    Attributes:
        top1: the class with the highest logit; `NOT_RUN` (-1) for an image that was not run.
        label_rank: where the label stands among the best five, from 0; 5 if it is not among them; -1 without a label, or not run.
    """

    top1: PackedNumbers
    label_rank: PackedNumbers


MOST_IMAGES = 5_000_000
"""A report of more images is not unpacked: no exact test would be made on them."""


@dataclass(frozen=True)
class ComparedImages:
    """The images that were compared on.

    Attributes:
        hashes: the first 63 bits of the SHA-256 of each file.
        labels: class index, `UNLABELLED` (-1) where unknown.
        reference: what the fp32 reference answered.
        names: of the files, below the folder that `Report.evaluation` names; None with very many.
        class_names: of the network's classes, by index; None if it has none, or far too many.
    """

    hashes: PackedNumbers
    labels: PackedNumbers
    reference: Answers
    names: PackedText | None = None
    class_names: PackedText | None = None


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
        answers: what each image was answered; None if not validated.
        table_sha256: of the table that its integers come from; empty if it has none, or nobody knows.
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
    answers: Answers | None = None
    table_sha256: str = ""

    @property
    def name(self) -> RowName:
        """Which row of the report it is."""
        return RowName(self.artifact, self.sha256, self.scheme, self.runtime)

    @property
    def label(self) -> str:
        """The row as the gate names it: `net.int8.tflite, litert on cpu`."""
        where = f"{self.runtime} on {self.device or self.device_asked}" if self.runtime else ""
        return ", ".join(part for part in (self.artifact or self.target, where) if part)

    @property
    def shows_losses(self) -> bool:
        """Whether a loss of top-1 could be seen: it was compared on images with labels."""
        return self.accuracy is not None and self.accuracy.top1_delta_pp is not None

    @property
    def loss_is_known(self) -> bool:
        """Whether a loss of top-1 could be seen, or there can be none: it computes what the fp32 reference does, but for float32's
        rounding (`EXACT_DB`). An fp32 file that was not compared counts as such.
        """
        if self.accuracy is None:
            return self.scheme == "fp32"
        return self.shows_losses or self.accuracy.sqnr_db >= EXACT_DB


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
class Roofline:
    """What one inference asks for, and what one core gave when nothing else was asked of it.

    Source: S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for multicore architectures",
    Communications of the ACM 52 (2009), 65-76.

    Attributes:
        mac_count: multiply-accumulates of one inference.
        value_count: weights and activations that its operators read and write, each on its own, as if nothing stayed in a cache.
        memory_gb_s: 10^9 bytes a second that copying a large array read and wrote.
        gmac_s: `float32`, `int8` -> 10^9 multiply-accumulates a second of a large matrix product; those that could be run.
    """

    mac_count: int
    value_count: int
    memory_gb_s: float
    gmac_s: Mapping[str, float]


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
        images: that were compared on; None if none were.
        roofline: of the network on one core of this machine; None if nothing was timed here, or too briefly to be worth it.
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
    images: ComparedImages | None = None
    roofline: Roofline | None = None


@dataclass(frozen=True)
class CurvePoint:
    """The exact integer run of a table that was calibrated on a part of the images.

    Attributes:
        image_count: images of the part.
        agreement: share of the evaluation images with the fp32 reference's top-1 class, with its Wilson interval.
        sqnr_db: of the logits, dB.
        to_largest_pp: agreement minus that of the largest part on the same images, percentage points, with its paired interval.
        error: of a network with one output, whose agreement says nothing; None of others.
        error_to_largest: mean error minus that of the largest part on the same images, with its paired 95% interval; likewise.
    """

    image_count: int
    agreement: Interval
    sqnr_db: float
    to_largest_pp: Interval
    error: OutputError | None = None
    error_to_largest: Interval | None = None


@dataclass(frozen=True)
class Curve:
    """Agreement and SQNR against the number of calibration images.

    Attributes:
        points: by image count; each part contains the one before it.
        enough_count: the smallest count from which on every agreement interval overlaps that of the largest part; of a network with
            one output, from which on no interval shows a larger error than the largest part's.
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


SCHEMA = Schema(
    Report,
    "report",
    8,
    {
        1: nothing_new,  # 2 added `measurements[].recipe` and `differences`
        2: nothing_new,  # 3 added `measurements[].checkpoint_sha256` and `verdicts`
        3: nothing_new,  # 4 added `measurements[].audit.kept_float`
        4: nothing_new,  # 5 added `estimate` and `facts` of measurements, and to placements where operators ran
        5: nothing_new,  # 6 added `assumptions` and `measurements[].audit.untold`
        6: nothing_new,  # 7 added `ratios`, to accuracies the error and the reference's variety, to latencies how steady they are
        7: nothing_new,  # 8 added `images` and `roofline`, and to measurements `answers` and `table_sha256`
    },
)


def report_sha256(report: Report) -> str:
    """Of the report as its file has it, whatever its spaces: what a gate's result says that it judged."""
    text = strict_text(to_json(report, SCHEMA.name))
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
