"""What `analyze` found out: where the integers' error comes from, and which images pay for it. Frozen and plain, as `results`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Cause = Literal["range too small", "range too wide", "weights", "activations", "few calibration images"]
Which = Literal["integers", "kept", "fp32"]


@dataclass(frozen=True)
class Effect:
    """The logits of a partly quantized network, compared with the reference's.

    Attributes:
        sqnr_db: 10 log10(sum of squared reference logits / sum of squared differences), dB; infinite where nothing differs.
        agreement: share of images with the reference's top-1 class, 0 to 1.
    """

    sqnr_db: float
    agreement: float


@dataclass(frozen=True)
class LayerSensitivity:
    """What one layer has to do with the error: a convolution, or an addition, which has no weights.

    A share is the power of the error that the part makes alone over that of the whole integer network. Errors meet and cancel, so
    the shares of all layers need not add up to 1.

    Attributes:
        name: the layer's.
        scale_group: all layers whose outputs share its output's scale, itself among them.
        weights: its weights and bias alone in integers, everything else float; None of an addition.
        output: its output alone in 8 bits, everything else float; None where it is a float in any case.
        kept: everything in integers but its weights and its output.
        weights_share: 0 of an addition.
        output_share: likewise a share.
        gain_db: SQNR of `kept` less that of the whole integer network, dB.
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
        """Of both together."""
        return self.weights_share + self.output_share


@dataclass(frozen=True)
class RangeUse:
    """How a layer's output fills the range that its integers have. Everything is counted on the float network's values, but
    `unused_levels`, on the integers.

    Attributes:
        name: the layer's.
        range_high: the largest real value that the integers hold, in the table's coordinates (equalized channels).
        range_low: the smallest; 0 behind a ReLU.
        largest_share: the largest value seen over `range_high`; above 1 is clipped.
        mean_largest_share: the mean over images of each image's largest value, over `range_high`.
        p999_share: the value that 99.9% of all values do not exceed, over `range_high`.
        clipped_high_share: share of all values above the range, 0 to 1; a value that rounds to the last step is inside.
        clipped_low_share: below it.
        clipped_image_count: images with such a value.
        most_clipped: file -> how many of its values are clipped; the ten worst.
        unused_levels: how many of the range's `levels` integers no value of any image has.
        levels: integers from the range's low end to its high end.
        channel_count: channels.
        dead_channels: behind a ReLU, those above 0 on no image.
        zero_filters: those whose float weights are all 0.
        lost_filters: those whose weights are all 0 in integers alone.
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
    """An image that the integers put into another class than the reference does.

    A margin is a logit less the largest other one, so it is above 0 for the top-1 class.

    Attributes:
        file: relative to the folder of images.
        label: its class index where the images are labelled, else None.
        reference_class: the reference's top-1 class index.
        int8_class: the integer network's.
        reference_margin: the reference class's margin in the reference.
        int8_margin: the same class's margin in the integer network.
        margin_lost: the one less the other.
        reference_class_change: the reference class's logit, integers less reference.
        int8_class_change: likewise of the integer network's class.
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
    """What would mend something, and by how much: always a run, never an estimate.

    Attributes:
        layer: which; empty where it is about all of them.
        cause: what is wrong.
        mend: what to do, in words.
        tried: the run behind the gain.
        gain_db: SQNR of that run less that of the whole integer network, on the same images, dB.
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
        sqnr_db: as of `Effect`, and so is `agreement`.
        drop_pp: top-1 of the reference less that of the integers, percentage points; where no image is labelled, 100 less the
            agreement in percent. `drop_low_pp` and `drop_high_pp` are its 95% interval.
    """

    sqnr_db: float
    agreement: float
    drop_pp: float
    drop_low_pp: float
    drop_high_pp: float


@dataclass(frozen=True)
class RankedLayer:
    """A layer that may be kept in float, in its place of the ranking.

    Attributes:
        layer: its name.
        gain_db: simulated on the part: SQNR won by it, beside the first `beside_count` of the ranking in float.
        added: convolutions that compute in float with it and with none of the layers before it.
    """

    layer: str
    gain_db: float
    beside_count: int
    added: tuple[str, ...]


@dataclass(frozen=True)
class TriedCount:
    """How many layers of the ranking were kept in float in an exact run, and what that gave."""

    layer_count: int
    effect: ExactEffect


@dataclass(frozen=True)
class FileCost:
    """What one file costs.

    Attributes:
        network: all `integers`; `kept`: with layers in float; `fp32`.
        p50_ms: None, as the ratio, where nothing was timed.
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
        runtime: what ran them; empty where nothing was timed.
        device: that the runtime says it used.
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
    """Layers kept in float: which, what that wins, and what it costs.

    Attributes:
        max_drop_pp: what the drop's upper bound was to stay under; None where that was not asked.
        reached: whether it does; None likewise.
        drop_of: `top-1` of labelled images, or `agreement`.
        layers: those that are named: the first of the ranking, or as they were asked for.
        convs: the convolutions that then compute in float, in the network's order.
        conv_count: of the whole network.
        before: all layers in integers.
        after: with `layers` in float.
        ranking: empty where layers were asked for by name.
        tried: the exact runs of a search, by the number of layers.
        cost: None where no layer is kept, or no runtime is installed.
        table: the table file's name; empty where none was written.
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
        calibration: of the table.
        evaluation: the images: `source`, `image_count`, `note`.
        image_count: images that flips and tensors were counted on.
        part_count: those of them, spread evenly, that the effects rest on.
        int8: the exact integer run on all images.
        whole: the simulated integer network on the part; every share and gain is against it.
        weights_alone: all weights in integers, all activations float, on the part.
        outputs_alone: the other way round.
        layers: in the network's order.
        tensors: likewise.
        worst: the names of the layers with the largest shares, worst first.
        advice: for these and for the whole.
        flips: by the margin lost, largest first.
        labels: class names, or empty.
        warnings: what the user should know.
        kept: what layers in float win and cost; None where that was not asked.
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
