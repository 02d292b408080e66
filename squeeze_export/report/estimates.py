"""What a compiler expects of chips that are not here, in words; kept apart from everything that was measured."""

from __future__ import annotations

from collections.abc import Sequence

from squeeze_export.report.page import text
from squeeze_export.report.wording import NOTHING, milliseconds, one_line, percent, size
from squeeze_export.results import Estimate, LayerCycles, Measurement

HEADER = ("accelerator", "system, memory mode, optimised for", "clock", "cycles", "time", "SRAM", "other memory", "operators")
WORD_COLUMNS = 2
"""Cells of words; the rest are figures."""
LONG_COLUMNS = (1, 6)
"""What goes below the others where there is no room."""
_SRAM = "sram"
_SYSTEM = ("system_config", "memory_mode", "optimise")
_LAYERS = ("makes", "operator", "on", "cycles", "share", "busy")
_LAYER_WORDS = 3


def estimated(measurements: Sequence[Measurement]) -> list[tuple[Measurement, Estimate]]:
    """The rows that hold an estimate."""
    return [(row, row.estimate) for row in measurements if row.estimate is not None]


def estimate_title(measurements: Sequence[Measurement]) -> str:
    """`Estimated by Vela 5.2.0, not measured`."""
    tools = " and ".join(dict.fromkeys(one_line(estimate.tool) for _, estimate in estimated(measurements)))
    return f"Estimated by {tools}, not measured"


def estimate_note() -> str:
    """What the figures are, in one sentence."""
    return (
        "the compiler's own model of a chip that is not here, for one inference; no measurement, and figures of different "
        "systems are not to be compared; operators: of the file, how many run on the accelerator"
    )


def estimate_rows(measurements: Sequence[Measurement]) -> list[tuple[str, ...]]:
    """One row for each estimate, in the columns of `HEADER`."""
    return [_row(row, estimate) for row, estimate in estimated(measurements)]


def _row(row: Measurement, estimate: Estimate) -> tuple[str, ...]:
    others = ", ".join(f"{size(count)} {_memory(name)}" for name, count in estimate.used_bytes.items() if name != _SRAM)
    placed = row.placement
    count = (
        f"{placed.device_count} of {placed.operator_count}" if placed is not None and placed.device_count is not None else NOTHING
    )
    return (
        one_line(row.device),
        ", ".join(one_line(estimate.settings[name]) for name in _SYSTEM if name in estimate.settings) or NOTHING,
        f"{estimate.clock_mhz:,.0f} MHz",
        f"{estimate.cycles:,}",
        milliseconds(estimate.inference_ms),
        size(estimate.used_bytes.get(_SRAM, 0)),
        others or NOTHING,
        count,
    )


def left_lines(measurements: Sequence[Measurement]) -> list[str]:
    """`ethos-u55-128: MEAN logits on the CPU: Unsupported opType`: what the accelerators leave to something else, and why."""
    left: dict[tuple[str, ...], list[str]] = {}
    for row, _ in estimated(measurements):
        if row.placement is not None and row.placement.fallbacks:
            left.setdefault(row.placement.fallbacks, []).append(one_line(row.device))
    return [f"{', '.join(devices)}: {one_line(name)}" for names, devices in left.items() for name in names]


def p50(measurement: Measurement) -> str:
    """The median latency; of an estimated row the estimate, which its device cell calls one."""
    if measurement.latency is not None:
        return milliseconds(measurement.latency.p50_ms)
    return milliseconds(measurement.estimate.inference_ms) if measurement.estimate is not None else NOTHING


def estimates_section(measurements: Sequence[Measurement]) -> str:
    """The page's table; nothing where nothing was estimated."""
    rows = estimate_rows(measurements)
    if not rows:
        return ""
    note = estimate_note()
    header = "".join(f"<th{_figure(index, WORD_COLUMNS)}>{name}</th>" for index, name in enumerate(HEADER))
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows)
    return (
        f'<h2>{text(estimate_title(measurements))}</h2><p class="soft">{note[0].upper()}{note[1:]}.</p>'
        f'<div class="wide"><table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def estimate_entries(estimate: Estimate) -> list[tuple[str, str]]:
    """Name and HTML of each line on one estimate: figures, what the chip is taken to be, traffic, and the operators folded away."""
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in estimate.settings.items() if name != "accelerator")
    moved = ", ".join(
        f"{_memory(name)} {size(count)}" + (f" ({estimate.moved_gb_s[name]:.2f} GB/s)" if name in estimate.moved_gb_s else "")
        for name, count in estimate.moved_bytes.items()
    )
    used = ", ".join(f"{_memory(name)} {size(count)}" for name, count in estimate.used_bytes.items())
    entries = [
        (
            "estimate",
            f"{estimate.cycles:,} cycles at {estimate.clock_mhz:,.0f} MHz, {milliseconds(estimate.inference_ms)}, "
            f"by {text(estimate.tool)}: no measurement",
        ),
        ("taken to be", text(settings)),
        ("memory used", text(used)),
        ("memory traffic", text(moved)),
    ]
    if estimate.layers:
        entries.append(("by operator", _layers(estimate.layers, estimate.cycles)))
    return [(name, words) for name, words in entries if words]


def _layers(layers: Sequence[LayerCycles], cycles: int) -> str:
    header = "".join(f"<th{_figure(index, _LAYER_WORDS)}>{name}</th>" for index, name in enumerate(_LAYERS))
    rows = "".join(
        f"<tr><td>{text(layer.name)}</td><td>{text(layer.operator)}</td><td>{text(layer.device)}</td>"
        f'<td class="figure">{layer.cycles:,}</td><td class="figure">{_share(layer.cycles, cycles)}</td>'
        f'<td class="figure">{percent(min(layer.mac_use, 1.0)) if layer.cycles else NOTHING}</td></tr>'
        for layer in layers
    )
    return (
        f"<details><summary>{len(layers)} operators as the compiler runs them; busy: share of the multipliers in use</summary>"
        f'<div class="wide"><table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table></div></details>'
    )


def _memory(name: str) -> str:
    return name.upper() if name in (_SRAM, "dram") else one_line(name)


def _share(part: int, whole: int) -> str:
    return percent(part / whole) if whole and part <= whole else NOTHING


def _cells(row: Sequence[str]) -> str:
    first, *others = row
    return f'<td class="name">{text(first)}</td>' + "".join(
        f"<td{_figure(index, WORD_COLUMNS)}>{text(cell)}</td>" for index, cell in enumerate(others, 1)
    )


def _figure(index: int, words: int) -> str:
    return ' class="figure"' if index >= words else ""
