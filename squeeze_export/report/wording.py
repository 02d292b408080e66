"""How figures are written, in the table, the Markdown and the page alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from squeeze_export.core import Assumption
from squeeze_export.results import Accuracy, Interval, Latency, Measurement, OutputError, Report, RowName

RATIOS = "One file against another"
NOTHING = "-"
"""Stands in a cell that has no figure."""


def percent(share: float) -> str:
    """0.973 -> `97.3%`. Only 1 is `100%` and only 0 is `0%`: 0.9998 is `99.9%`."""
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    return f"{min(max(100 * share, 0.1), 99.9):.1f}%"


def percent_range(interval: Interval) -> str:
    """The bounds of a share: `[96.0, 98.2]`, in percent."""
    return f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def signed(value: float, digits: int) -> str:
    """`+0.4`, `-0.42`; zero has no sign."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def delta_pp(delta: Interval) -> str:
    """`-0.42 pp`."""
    return f"{signed(delta.value, 2)} pp"


def delta_range(delta: Interval) -> str:
    """`[-1.3, +0.4]`, percentage points."""
    return f"[{signed(delta.low, 1)}, {signed(delta.high, 1)}]"


def size(size_bytes: int) -> str:
    """`1.27 MB`, below a megabyte `676 KB`, below a kilobyte `300 B`; 1 MB is 10^6 bytes. `-` for no file."""
    if size_bytes == 0:
        return NOTHING
    if size_bytes >= 999_500:
        return f"{size_bytes / 1e6:.2f} MB"
    return f"{size_bytes / 1e3:.0f} KB" if size_bytes >= 1000 else f"{size_bytes} B"


def milliseconds(value_ms: float) -> str:
    """Three figures: `0.123 ms`, `2.65 ms`, `26.5 ms`, `265 ms`."""
    digits = 3 if value_ms < 0.9995 else 2 if value_ms < 9.995 else 1 if value_ms < 99.95 else 0
    return f"{value_ms:.{digits}f} ms"


def speedup(interval: Interval) -> str:
    """`2.9x`, close to 1 `1.04x`."""
    return f"{interval.value:.{_ratio_digits(interval)}f}x"


def speedup_range(interval: Interval) -> str:
    """`[2.8, 3.0]`, close to 1 `[1.01, 1.07]`."""
    digits = _ratio_digits(interval)
    return f"[{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _ratio_digits(interval: Interval) -> int:
    """Two digits if one would print a 1.0, which hides on which side of 1 a value lies."""
    return 2 if "1.0" in {f"{value:.1f}" for value in (interval.value, interval.low, interval.high)} else 1


def decibel(value_db: float) -> str:
    """`38.9 dB`, from 100 on `121 dB`; `exact` if nothing differs."""
    if value_db == math.inf:
        return "exact"
    return f"{value_db:.1f} dB" if value_db < 99.95 else f"{value_db:.0f} dB"


def device(measurement: Measurement, among: Sequence[Measurement] = ()) -> str:
    """The device that was used, or the requested one if nothing ran. The chip is added if `among` has files for several chips, else
    the runtime if `among` has the same file on another one.
    """
    name = measurement.device or measurement.device_asked
    chips = {row.facts.get("compiled_for") for row in among if row.target == measurement.target}
    if len(chips) > 1 and measurement.facts.get("compiled_for"):
        return f"{name}, {measurement.facts['compiled_for']}"
    file = (measurement.artifact, measurement.scheme, measurement.target)
    runtimes = {row.runtime for row in among if (row.artifact, row.scheme, row.target) == file}
    return f"{name}, {measurement.runtime}" if len(runtimes) > 1 and measurement.runtime else name


def scheme(measurement: Measurement, among: Sequence[Measurement] = ()) -> str:
    """`int8`; `int8 vendor` for a vendor's own quantization; `int8 with 3 float` with layers kept in float. The file is added if
    `among` has another one that would read the same.
    """
    recipe, kept = measurement.recipe, measurement.audit.kept_float if measurement.audit is not None else ()
    name = f"{measurement.scheme} {recipe}" if recipe.startswith("vendor") else measurement.scheme
    name = f"{name} with {len(kept)} float" if kept else name
    words = (measurement.target, name, device(measurement, among))
    others = [row for row in among if row.artifact != measurement.artifact]
    alike = any((row.target, scheme(row), device(row, among)) == words for row in others)
    return f"{name}, {one_line(measurement.artifact)}" if alike and measurement.artifact else name


def evidence(measurement: Measurement) -> str:
    """Empty for measured figures, else `emulated`, `simulated`, `estimated`: shown wherever such a figure is."""
    return "" if measurement.evidence == "measured" else measurement.evidence


def accuracy_heading(measurements: Sequence[Measurement]) -> str:
    """The heading of the accuracy column."""
    accuracies = [measurement.accuracy for measurement in measurements if measurement.accuracy is not None]
    labelled = [accuracy for accuracy in accuracies if accuracy.top1 is not None]
    if any(accuracy.error is not None for accuracy in accuracies):
        return "error"
    if not labelled:
        return "agreement"
    return "top-1" if len(labelled) == len(accuracies) else "top-1 or agreement"


def accuracy_parts(accuracy: Accuracy | None, heading: str) -> tuple[str, str]:
    """The figure and its interval: `57.9% -0.42 pp`, `[-1.3, +0.4]` with labels, `97.3%`, `[96.0, 98.2]` without; of a network
    with one output the mean error and what 95% of the errors do not exceed: `0.0123`, `[95% 0.034]`."""
    if accuracy is None:
        return NOTHING, ""
    if accuracy.error is not None:
        return f"{accuracy.error.mean:.3g}", f"[95% {accuracy.error.p95:.3g}]"
    if accuracy.top1 is not None and accuracy.top1_delta_pp is not None:
        return f"{percent(accuracy.top1)} {delta_pp(accuracy.top1_delta_pp)}", delta_range(accuracy.top1_delta_pp)
    word = " agree" if heading == "top-1 or agreement" else ""
    return f"{percent(accuracy.top1_agreement.value)}{word}", percent_range(accuracy.top1_agreement)


def comparison_lines(
    accuracy: Accuracy, first: Measurement, second: Measurement, flip_count: int, faster: Interval | None
) -> list[str]:
    """What `compare` found, a line for each kind of figure; `faster` is p50 of `first` over that of `second`."""
    lines = []
    for letter, row in (("A", first), ("B", second)):
        how = "" if row.evidence == "measured" else f", {row.evidence}"
        lines.append(f"{letter}  {row.artifact} ({row.runtime}{how}), {size(row.size_bytes)}")
    if accuracy.error is not None:
        lines.append(f"{accuracy.count:,} images, B against A: {output_error(accuracy.error)}")
    else:
        share = f"{percent(accuracy.top1_agreement.value)} {percent_range(accuracy.top1_agreement)}"
        same = f"the same class on {accuracy.count - flip_count:,} of {accuracy.count:,} images, {share}"
        lines.append(f"{same}; SQNR {decibel(accuracy.sqnr_db)}; KL {accuracy.kl:.2g} nats")
    timed = [row.latency for row in (first, second) if row.latency is not None]
    if faster is not None and len(timed) == 2:
        times = " and ".join(milliseconds(latency.p50_ms) for latency in timed)
        unsteady = ", ".join(dict.fromkeys(filter(None, map(steadiness, timed))))
        held = f" ({unsteady})" if unsteady else ""
        lines.append(f"p50 {times}: B is {speedup(faster)} as fast as A {speedup_range(faster)}{held}")
    return lines


def output_error(error: OutputError) -> str:
    """`mean error 0.0123, 95% at most 0.034, correlation 0.9991, standard deviation of the reference 0.52`."""
    correlation = "none (constant)" if error.correlation is None else f"{error.correlation:.4f}"
    return (
        f"mean error {error.mean:.3g}, 95% at most {error.p95:.3g}, correlation {correlation}, standard deviation of the reference"
        f" {error.spread:.3g}"
    )


def speedup_parts(latency: Latency | None) -> tuple[str, str]:
    """The ratio and its interval: `2.9x`, `[2.8, 3.0]`."""
    if latency is None or latency.speedup is None:
        return NOTHING, ""
    return speedup(latency.speedup), speedup_range(latency.speedup)


def steadiness(latency: Latency | None) -> str:
    """What to hold against a latency: `busy`, `unsteady`, both, or nothing."""
    if latency is None:
        return ""
    return ", ".join(word for word, held in (("busy", latency.busy), ("unsteady", latency.unsteady)) if held)


def busy_lines(measurements: Sequence[Measurement]) -> list[str]:
    """What `busy` and `unsteady` mean beside these latencies; none where no row says so."""
    latencies = [measurement.latency for measurement in measurements if measurement.latency is not None]
    loads = [latency.other_load for latency in latencies if latency.busy and latency.other_load is not None]
    lines = []
    if loads:
        lines.append(
            f"busy: other processes kept {max(loads):.1f} cores of this machine busy meanwhile, so these latencies are too long;"
            " time them again when it is quiet"
        )
    if any(latency.unsteady for latency in latencies):
        lines.append("unsteady: the medians of the first and the second half of the rounds may differ by more than 10%")
    return lines


def joined(parts: tuple[str, str]) -> str:
    """A figure and its interval in one line."""
    return " ".join(part for part in parts if part)


def outcome(measurement: Measurement) -> str:
    """`failed: ...` or `skipped: ...`."""
    return f"{measurement.status}: {one_line(measurement.reason) or 'no reason given'}"


def sentence(note: str) -> str:
    """A note as a sentence: `Share of images.`"""
    return f"{note[0].upper()}{note[1:]}."


def one_line(text: str) -> str:
    """Text from elsewhere (a tool's message, a tensor's name) without line breaks and terminal control codes."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())


def facts_line(facts: Mapping[str, Any]) -> str:
    """A mapping in one line: `image count 128, source demo`; hashes are cut to 12 digits."""
    parts = []
    for name, word, spelt in spelt_facts(facts):
        short = spelt[:12] if name.endswith("sha256") else spelt
        parts.append(short if name in ("note", "notes") else f"{word} {short}")
    return ", ".join(parts)


_UNITS = {"_bytes": "", "_px": " px", "_ms": " ms", "_mhz": " MHz", "_pp": " pp", "_db": " dB"}


def spelt_facts(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, name in words and value in words of each fact that has a value; units move from the name to the value."""
    spelt = []
    for name, value in facts.items():
        if value is None or value == "" or name == "class_matches":  # up to a thousand: the JSON has them
            continue
        suffix = next((suffix for suffix in _UNITS if name.endswith(suffix)), "")
        word = name[: len(name) - len(suffix)].replace("_", " ")
        told = "; ".join(map(str, value)) if name == "notes" else fact(value, name)
        spelt.append((name, word, told + _UNITS.get(suffix, "")))
    return spelt


def fact(value: Any, name: str = "") -> str:
    """A value as text: yes and no, sizes in MB or GB, thousands separated, lists with spaces."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        if name.endswith("_bytes"):
            return f"{value / 1e9:.1f} GB" if value >= 1e9 else size(value)
        return str(value) if name == "seed" else f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{word} {spelt}" for _, word, spelt in spelt_facts(value))
    if isinstance(value, list | tuple):
        return " ".join(fact(item) for item in value) or "none"
    return str(value)


def assumption_line(assumptions: Sequence[Assumption]) -> str:
    """`assuming torchvision's SqueezeNet 1.1: conv1 3x3/2, ceil pools; torchvision's preprocessing: pixels RGB, 256 -> 224`.

    Empty if nothing was assumed.
    """
    values: dict[str, list[str]] = {}
    for assumption in assumptions:
        values.setdefault(assumption.why, []).append(assumption.value)
    parts = [f"{why}: {', '.join(found)}" for why, found in values.items()]
    return f"assuming {one_line('; '.join(parts))}" if parts else ""


def host_line(report: Report) -> str:
    """The machine in one line."""
    host = report.host
    parts = [str(host[name]) for name in ("cpu", "os", "python") if host.get(name)]
    if host.get("usable_cores"):
        parts.insert(1, f"{host['usable_cores']} usable cores")
    if host.get("isa"):
        parts.insert(1, " ".join(host["isa"]))
    if host.get("virtualised"):
        parts.append("virtualised")
    return ", ".join(parts)


def ratio_lines(report: Report) -> list[str]:
    """`b/net.int8.onnx against a/net.int8.onnx: 1.3x [1.2, 1.4] as fast`."""

    def told(name: RowName) -> str:
        runtimes = {row.runtime for row in report.measurements if row.artifact == name.artifact}
        return one_line(f"{name.artifact} on {name.runtime}" if len(runtimes) > 1 else name.artifact)

    return [
        f"{told(ratio.row)} against {told(ratio.first)}: {speedup(ratio.speedup)} {speedup_range(ratio.speedup)} as fast"
        for ratio in report.ratios
    ]


def ratio_note() -> str:
    """What the ratios are, in one sentence."""
    return "the second file's median latency over the first's, from interleaved rounds, with a 95% bootstrap interval"


def board_line(measurements: Sequence[Measurement]) -> str:
    """The board or phone that the rows ran on; empty if they ran on this machine."""
    facts = next((row.facts for row in measurements if row.facts.get("on") in ("ssh", "adb")), {})
    told = [str(facts[name]) for name in ("board", "soc", "cpu", "architecture") if facts.get(name)]
    what = {"ssh": "a board over ssh", "adb": "an Android device over adb"}.get(str(facts.get("on")))
    return f"run on {what}: {', '.join(dict.fromkeys(told)) or 'it tells nothing of itself'}" if what else ""


def accuracy_note(measurements: Sequence[Measurement]) -> str:
    """What the accuracy column means, in one sentence; empty if nothing was compared."""
    accuracies = [measurement.accuracy for measurement in measurements if measurement.accuracy is not None]
    if not accuracies:
        return ""
    counts = sorted({accuracy.count for accuracy in accuracies})
    images = " or ".join(f"{count:,}" for count in counts) + " images"
    errors = [accuracy.error for accuracy in accuracies if accuracy.error is not None]
    if errors:
        return (
            "mean absolute difference from the fp32 reference's output, and what 95% of the differences do not exceed, "
            f"{images}; the reference's output has a standard deviation of {errors[0].spread:.3g}"
        )
    if any(accuracy.top1 is not None for accuracy in accuracies):
        return f"share right, and its change against the fp32 reference with a paired 95% interval, {images}"
    return f"share of images with the fp32 reference's top-1 class, with a 95% interval, {images}"


def emulated_note(measurements: Sequence[Measurement]) -> str:
    """How many images the emulated rows ran on, if other rows ran on more; else empty."""
    counts = [m.accuracy.count for m in measurements if m.accuracy is not None and m.evidence != "measured"]
    most = max((m.accuracy.count for m in measurements if m.accuracy is not None), default=0)
    fewer = [count for count in counts if count < most]
    return f"emulated rows: {fewer[0]:,} of the {most:,} images, spread evenly over them" if fewer else ""


def timing_note(measurements: Sequence[Measurement]) -> str:
    """What the speed-up column means, in one sentence; empty if nothing was timed."""
    latencies = [measurement.latency for measurement in measurements if measurement.latency is not None]
    if not latencies:
        return ""
    rounds = " or ".join(f"{count:,}" for count in sorted({len(latency.samples_ns) for latency in latencies}))
    threads = " or ".join(str(count) for count in sorted({latency.threads for latency in latencies}))
    word = "thread" if threads == "1" else "threads"
    return (
        "fp32's median over this one's, same device and runtime (bf16: over the same file in float32), 95% bootstrap interval; "
        f"{rounds} interleaved rounds, {threads} {word}"
    )
