"""The results of `analyze`: where the integers' error comes from, and which images change their class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from squeeze_export.core import Assumption
from squeeze_export.results import OutputError

Cause = Literal["range too small", "range too wide", "weights", "activations", "few calibration images"]
Which = Literal["integers", "kept", "fp32"]


@dataclass(frozen=True)
class Effect:
    """The logits of a partly quantized network, compared with the reference's.

    Attributes:
        sqnr_db: 10 log10(sum of squared reference logits / sum of squared differences), dB; infinite if nothing differs.
        agreement: share of images with the reference's top-1 class, 0 to 1.
    """

    sqnr_db: float
    agreement: float


@dataclass(frozen=True)
class LayerSensitivity:
    """How much one layer contributes to the error: a convolution, or an addition, which has no weights.

    A share is the power of the error that a part alone causes, over that of the whole integer network. Errors may add up or cancel,
    so the shares of all layers need not sum to 1.

    Attributes:
        name: of the layer.
        scale_group: all layers whose outputs share a scale with its output, itself included.
        weights: only its weights and bias in integers, everything else in float; None for an addition.
        output: only its output in 8 bits, everything else in float; None if the output is in float anyway.
        kept: everything in integers except its weights and its output.
        weights_share: of `weights`; 0 for an addition.
        output_share: of `output`.
        gain_db: SQNR of `kept` minus that of the whole integer network, dB.
    """

    name: str
    scale_group: tuple[str, ...]
    weights: Effect | None
    output: Effect | None
    kept: Effect
    weights_share: float
    output_share: float
    gain_db: float

    @property
    def share(self) -> float:
        """Of weights and output together."""
        return self.weights_share + self.output_share


@dataclass(frozen=True)
class RangeUse:
    """How a layer's output fills the range of its integers. All figures are of the float network's values, except `unused_levels`,
    which is of the integer run's.

    Attributes:
        name: of the layer.
        range_high: the largest real value that the integers can represent, in the table's coordinates (equalized channels).
        range_low: the smallest one; 0 after a ReLU.
        largest_share: the largest value over `range_high`; above 1 it is clipped. Like the next two, over the range's width where
            `range_high` is 0.
        mean_largest_share: each image's largest value, averaged over the images, over `range_high`.
        p999_share: the 99.9th percentile of all values, over `range_high`.
        clipped_high_share: share (0 to 1) of values above the range; a value that rounds to the last step is inside.
        clipped_low_share: share of values below the range.
        clipped_image_count: images with a value outside the range.
        most_clipped: file -> count of its clipped values; the ten worst.
        unused_levels: how many of the `levels` no value of any image uses.
        levels: count of integers in the range.
        channel_count: channels.
        dead_channels: channels after a ReLU that are 0 on every image.
        zero_filters: channels whose float weights are all 0.
        lost_filters: channels whose weights are all 0 only in integers.
    """

    name: str
    range_high: float
    range_low: float
    largest_share: float
    mean_largest_share: float
    p999_share: float
    clipped_high_share: float
    clipped_low_share: float
    clipped_image_count: int
    most_clipped: Mapping[str, int]
    unused_levels: int
    levels: int
    channel_count: int
    dead_channels: tuple[int, ...]
    zero_filters: tuple[int, ...]
    lost_filters: tuple[int, ...]


@dataclass(frozen=True)
class ClassChange:
    """An image whose top-1 class differs between the integer network and the reference.

    A margin is a logit minus the largest other one, so it is above 0 for the top-1 class.

    Attributes:
        file: relative to the folder of images.
        label: its class index, or None if the images are not labelled.
        reference_class: top-1 class index of the reference.
        int8_class: top-1 class index of the integer network.
        reference_margin: margin of the reference class in the reference.
        int8_margin: margin of the reference class in the integer network.
        margin_lost: `reference_margin` minus `int8_margin`.
        reference_class_change: logit of the reference class, integer network minus reference.
        int8_class_change: the same for the class of the integer network.
    """

    file: str
    label: int | None
    reference_class: int
    int8_class: int
    reference_margin: float
    int8_margin: float
    margin_lost: float
    reference_class_change: float
    int8_class_change: float


@dataclass(frozen=True)
class Advice:
    """A remedy and its gain, which comes from a run, never from an estimate.

    Attributes:
        layer: its name; empty if the remedy is for all of them.
        cause: what is wrong.
        mend: what to do, in words.
        tried: the run that measured the gain.
        gain_db: SQNR of that run minus that of the whole integer network on the same images, dB.
    """

    layer: str
    cause: Cause
    mend: str
    tried: str
    gain_db: float


@dataclass(frozen=True)
class ExactEffect:
    """The exact integer run on all images, compared with the reference.

    Attributes:
        sqnr_db: as in `Effect`, like `agreement`.
        drop_pp: top-1 of the reference minus that of the integers, percentage points; without labels, 100 minus the agreement in
            percent. `drop_low_pp` and `drop_high_pp` are its 95% interval.
        error: of a network with one output, whose agreement and drop say nothing; None of others.
    """

    sqnr_db: float
    agreement: float
    drop_pp: float
    drop_low_pp: float
    drop_high_pp: float
    error: OutputError | None = None


@dataclass(frozen=True)
class RankedLayer:
    """A layer of the ranking of layers to keep in float.

    Attributes:
        layer: its name.
        gain_db: SQNR gained by it while the first `beside_count` layers of the ranking are in float too; simulated.
        added: convolutions that it adds to those in float because of the layers before it.
    """

    layer: str
    gain_db: float
    beside_count: int
    added: tuple[str, ...]


@dataclass(frozen=True)
class TriedCount:
    """An exact run with the first layers of the ranking in float."""

    layer_count: int
    effect: ExactEffect


@dataclass(frozen=True)
class FileCost:
    """Size and latency of one file.

    Attributes:
        network: `integers`; `kept`, with layers in float; or `fp32`.
        p50_ms: None if nothing was timed, like the ratio.
        to_integers: its p50 over that of `integers`, with a 95% bootstrap interval.
    """

    network: Which
    size_bytes: int
    p50_ms: float | None = None
    to_integers: float | None = None
    to_integers_low: float | None = None
    to_integers_high: float | None = None


@dataclass(frozen=True)
class Cost:
    """Three files of one format, timed in the same rounds.

    Attributes:
        target: the format.
        runtime: that ran them; empty if nothing was timed.
        device: the device that the runtime reports.
        rounds: timed inferences of each file, on one thread.
        files: `integers`, `kept`, `fp32`.
    """

    target: str
    runtime: str
    device: str
    rounds: int
    files: tuple[FileCost, ...]


@dataclass(frozen=True)
class MixedPrecision:
    """Layers kept in float: which ones, their gain, and their cost.

    Attributes:
        max_drop_pp: the requested limit of the drop's upper bound; None without one.
        reached: whether the upper bound is within it; None without a limit.
        drop_of: `top-1` of labelled images, or `agreement`.
        layers: the first of the ranking, or those that were requested by name.
        convs: the convolutions that then compute in float, in the network's order.
        conv_count: of the whole network.
        before: all layers in integers.
        after: with `layers` in float.
        ranking: empty if layers were requested by name.
        tried: the exact runs of the search, by number of layers.
        cost: None if no layer is kept, or no runtime is installed.
        table: name of the table file; empty if none was written.
    """

    max_drop_pp: float | None
    reached: bool | None
    drop_of: Literal["top-1", "agreement"]
    layers: tuple[str, ...]
    convs: tuple[str, ...]
    conv_count: int
    before: ExactEffect
    after: ExactEffect
    ranking: tuple[RankedLayer, ...] = ()
    tried: tuple[TriedCount, ...] = ()
    cost: Cost | None = None
    table: str = ""


@dataclass(frozen=True)
class Analysis:
    """Why the integers differ from the reference.

    Attributes:
        network: `Network.facts`.
        calibration: facts of the table's calibration.
        evaluation: the images: `source`, `image_count`, `note`.
        image_count: images behind `int8`, `tensors` and `flips`.
        part_count: images behind the other effects: a part of these, spread evenly.
        int8: the exact integer run on all images.
        whole: the simulated integer network on the part; the shares and gains are relative to it.
        weights_alone: all weights in integers, all activations in float, on the part.
        outputs_alone: the other way round.
        layers: in the network's order.
        tensors: likewise.
        worst: the names of the layers with the largest shares, worst first.
        advice: for these layers and for the whole network.
        flips: by the margin lost, largest first.
        labels: class names, or empty.
        warnings: for the user.
        kept: gain and cost of layers in float; None if not requested.
        assumptions: what neither the checkpoint nor the user told about the network.
        error: of the exact integer run of a network with one output, whose agreement says nothing; None of others.
    """

    network: Mapping[str, Any]
    calibration: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    image_count: int
    part_count: int
    int8: Effect
    whole: Effect
    weights_alone: Effect
    outputs_alone: Effect
    layers: tuple[LayerSensitivity, ...]
    tensors: tuple[RangeUse, ...]
    worst: tuple[str, ...]
    advice: tuple[Advice, ...]
    flips: tuple[ClassChange, ...]
    labels: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    kept: MixedPrecision | None = None
    assumptions: tuple[Assumption, ...] = ()
    error: OutputError | None = None
