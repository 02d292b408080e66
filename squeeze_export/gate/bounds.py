"""The bounds that a report is held to, in the words that options, environment and settings files share."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from squeeze_export.errors import BadInput, did_you_mean

Unit = Literal["pp", "%", "dB", "nats", "bytes", "ms", "x", "steps", "operators", "cycles"]


@dataclass(frozen=True)
class Word:
    """What one bound is called, and which values it may have.

    Attributes:
        unit: of its value, which may be written behind it or left out.
        help: one sentence.
        most: the largest value that says anything.
        whole: whether it counts things.
    """

    unit: Unit
    help: str
    most: float = math.inf
    whole: bool = False

    @property
    def example(self) -> str:
        """A value as it may be written: `1.3MB`."""
        return {"%": "99%", "bytes": "1.3MB", "dB": "30dB", "ms": "2.5ms", "x": "1.5x"}.get(self.unit, "3" if self.whole else "0.5")


WORDS: Mapping[str, Word] = {
    "max-top1-drop": Word("pp", "Largest drop of top-1, percentage points.", most=100),
    "max-top5-drop": Word("pp", "Largest drop of top-5, percentage points.", most=100),
    "min-agreement": Word("%", "Least share of images with the reference's top-1 class, percent.", most=100),
    "min-sqnr": Word("dB", "Least signal-to-quantization-noise ratio of the logits, dB."),
    "max-kl": Word("nats", "Largest mean Kullback-Leibler divergence from the reference, nats."),
    "max-size": Word("bytes", "Largest file, such as 1.3MB.", whole=True),
    "max-p50": Word("ms", "Longest median latency, ms."),
    "max-p90": Word("ms", "Longest 90th percentile of the latency, ms."),
    "max-p99": Word("ms", "Longest 99th percentile of the latency, ms."),
    "min-speedup": Word("x", "Least speed-up over the fp32 file, such as 1.5."),
    "max-memory": Word("bytes", "Most memory that a runtime reports, such as TFLite Micro's arena.", whole=True),
    "max-fallbacks": Word("operators", "Most operators that run elsewhere than asked, or in float.", whole=True),
    "max-cycles": Word("cycles", "Most cycles of an inference, by a compiler's estimate.", whole=True),
    "max-sram": Word("bytes", "Most SRAM, by a compiler's estimate, such as 256KB.", whole=True),
    "max-steps-apart": Word("steps", "Largest difference of a logit between two targets' files, in steps."),
    "max-slowdown": Word("%", "Largest slow-down against --base, percent.", most=1000),
}
"""Word -> what it means; the field of `Bounds` has underscores."""


@dataclass(frozen=True)
class Bounds:
    """What passes. None bounds nothing.

    Attributes:
        max_top1_drop: percentage points, of the share of right answers; against the fp32 reference, and against the baseline.
        max_top5_drop: likewise of the best five.
        min_agreement: percent of images with the reference's top-1 class.
        min_sqnr: dB.
        max_kl: nats.
        max_size: bytes of a file.
        max_p50: ms.
        max_p90: ms.
        max_p99: ms.
        min_speedup: fp32's median over this one's.
        max_memory: bytes.
        max_fallbacks: operators.
        max_cycles: of the accelerator's clock.
        max_sram: bytes.
        max_steps_apart: in steps of the last convolution's output.
        max_slowdown: percent, against files that are timed in the same job.
    """

    max_top1_drop: float | None = None
    max_top5_drop: float | None = None
    min_agreement: float | None = None
    min_sqnr: float | None = None
    max_kl: float | None = None
    max_size: float | None = None
    max_p50: float | None = None
    max_p90: float | None = None
    max_p99: float | None = None
    min_speedup: float | None = None
    max_memory: float | None = None
    max_fallbacks: float | None = None
    max_cycles: float | None = None
    max_sram: float | None = None
    max_steps_apart: float | None = None
    max_slowdown: float | None = None

    @property
    def given(self) -> Mapping[str, float]:
        """Word -> bound, of those that are set."""
        values = {field.name.replace("_", "-"): getattr(self, field.name) for field in fields(self)}
        return {word: value for word, value in values.items() if value is not None}


def bounds_of(values: Mapping[str, Any]) -> Bounds:
    """Bounds from words and values: `{"max-size": "1.3MB"}`.

    Raises:
        BadInput: no such word, or a value that it cannot have.
    """
    for word in values:
        if word not in WORDS:
            raise BadInput(f"`{word}` is no bound", hint=did_you_mean(word, WORDS))
    return Bounds(**{word.replace("-", "_"): read_bound(word, value) for word, value in values.items()})


_SIZES = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SPELT: Mapping[Unit, Mapping[str, float]] = {
    "pp": {"pp": 1},
    "%": {"%": 1},
    "dB": {"db": 1},
    "nats": {"nats": 1},
    "bytes": {**_SIZES, "bytes": 1},
    "ms": {"ms": 1, "us": 1e-3, "s": 1e3},
    "x": {"x": 1},
    "steps": {"steps": 1},
    "operators": {"operators": 1},
    "cycles": {"cycles": 1},
}
"""Unit -> how it may be written, in lower case -> the factor."""


def read_bound(word: str, value: Any) -> float:
    """The value of a bound, from an option's text or a settings file's number.

    Args:
        word: a key of `WORDS`.
        value: a number in the word's unit, or a text that may have a unit behind it.

    Raises:
        BadInput: no number, another unit, below 0, too large, a part of something that is counted, or maybe a share, not percent.
    """
    meant = WORDS[word]
    hint = f"such as {meant.example}" if isinstance(value, str) else f'such as {word} = "{meant.example}"'
    match = re.fullmatch(r"(\d+\.?\d*(?:e[+-]?\d+)?|\.\d+)\s*([a-z%]*)", str(value).strip(), re.ASCII | re.IGNORECASE)
    if isinstance(value, bool) or match is None or math.isinf(float(match[1])):
        raise BadInput(f"`{word}` is `{value}`, which is no number of at least 0", hint=hint)
    unit = match[2].lower()
    factors = _SPELT[meant.unit]
    if unit and unit not in factors:
        raise BadInput(f"`{word}` is `{value}`: its unit is `{meant.unit}`, not `{match[2]}`", hint=hint)
    number = float(match[1]) * factors.get(unit, 1)
    if meant.unit == "%" and word.startswith("min-") and not unit and 0 < number <= 1:
        raise BadInput(f"`{word}` is `{value}`: a share of 1, or percent?", hint=f"{100 * number:g}%, or {number:g}%")
    if number > meant.most:
        raise BadInput(f"`{word}` is `{value}`, more than {meant.most:g} {meant.unit}", hint=hint)
    if meant.whole and not round(number, 6).is_integer():
        raise BadInput(f"`{word}` is `{value}`, and {meant.unit} are counted", hint=hint)
    return round(number, 6) if meant.whole else number


def in_unit(value: float, unit: str) -> str:
    """A figure with its unit: `0.42 pp`, `99.2%`, `1,300,000 bytes`, `1.5x`, `1 step`."""
    whole = float(value).is_integer() and abs(value) < 1e15
    number = f"{value:,.0f}" if whole else f"{value:,.2f}" if abs(value) >= 0.1 else f"{value:.2g}"
    if unit in ("%", "x"):
        return f"{number}{unit}"
    return f"{number} {unit.removesuffix('s') if value == 1 and unit.endswith('s') and unit != 'ms' else unit}".rstrip()
