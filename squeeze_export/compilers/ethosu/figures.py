"""Reads Vela's two CSV files as an `Estimate`. Their units (see its `stats_writer.py`): Hz, s, KiB used, bytes moved, cycles."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from typing import TypeVar

from squeeze_export.compilers.ethosu.settings import VelaSettings
from squeeze_export.errors import Refused
from squeeze_export.results import Estimate, LayerCycles

T = TypeVar("T", int, float)

_MEMORIES = ("sram", "dram", "on_chip_flash", "off_chip_flash")
_LAYER_COLUMNS = ("Original Operator", "Target", "Op Cycles", "MAC Count", "Util% (MAC)", "Name")


def estimate_of(summary: str, layers: str, choice: VelaSettings, *, version: str) -> Estimate:
    """Reads both files.

    Args:
        summary: a line of names and a line of values.
        layers: a line of names, and one line per operator.
        choice: what Vela was asked for.
        version: Vela's.

    Raises:
        Refused: a column is missing or holds no number, or the summary is for another accelerator or system than `choice`.
    """
    try:
        (row,) = csv.DictReader(summary.splitlines())
        accelerator = row["accelerator_configuration"].lower().replace("_", "-")  # from `Ethos_U55_128`
        used_for, inference_s = (accelerator, row["system_config"], row["memory_mode"]), float(row["inference_time"])
        found = Estimate(
            tool=f"Vela {version}",
            settings=choice.facts(),
            clock_mhz=float(row["core_clock"]) / 1e6,
            cycles=_whole(row["cycles_total"]),
            inference_ms=inference_s * 1e3,
            used_bytes=_by_memory({name: round(float(row[f"{name}_memory_used"]) * 1024) for name in _MEMORIES}),
            moved_bytes=_by_memory({name: _whole(row[f"{name}_total_bytes"]) for name in _MEMORIES}),
            moved_gb_s=_by_memory({name: float(row[f"{name}_total_bytes"]) / inference_s / 1e9 for name in _MEMORIES}),
            layers=_layers(layers),
        )
    except (KeyError, ValueError, TypeError, ZeroDivisionError, OverflowError) as err:
        raise Refused(
            f"Vela's figures cannot be read: {type(err).__name__} {err}", hint="pip install 'ethos-u-vela==5.2.*'"
        ) from err
    asked = (choice.accelerator, choice.system_config, choice.memory_mode)
    if used_for != asked:
        raise Refused(f"Vela compiled for `{' '.join(used_for)}`, not for `{' '.join(asked)}`")
    return found


def _layers(text: str) -> tuple[LayerCycles, ...]:
    """The operators, except those that Vela fuses into the one before: they have no cycles of their own."""
    header, *lines = text.splitlines()
    names = header.split(",")
    found = []
    for line in lines:
        # Nothing is quoted, and the name in the last column may hold commas.
        row = dict(zip(names, line.split(",", len(names) - 1), strict=True))
        kind, device, cycles, macs, use, name = (row[column] for column in _LAYER_COLUMNS)
        if device == "NPU" and not _whole(cycles) and not _whole(macs):
            continue
        share = float(use) / 100 if _whole(cycles) else 0.0
        found.append(LayerCycles(kind, name, device, _whole(cycles), _whole(macs), share))
    return tuple(found)


def _by_memory(values: Mapping[str, T]) -> dict[str, T]:
    """The memories that are used, with spaces in their names."""
    return {name.replace("_", " "): value for name, value in values.items() if value}


def _whole(text: str) -> int:
    return round(float(text))
