"""Vela's two CSV files as an `Estimate`. Units as in its `stats_writer.py`: Hz, s, KiB of memory used, bytes moved, cycles."""

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
        summary: one line of names, one of values.
        layers: one line of names, one for each operator as Vela runs it.
        choice: what was asked for; the summary must be of that.
        version: Vela's.

    Raises:
        Refused: a column is missing or holds no number, or the summary is of another accelerator or system.
    """
    try:
        (row,) = csv.DictReader(summary.splitlines())
        used_for = (_dashed(row["accelerator_configuration"]), row["system_config"], row["memory_mode"])
        found = Estimate(
            tool=f"Vela {version}",
            settings=choice.facts(),
            clock_mhz=float(row["core_clock"]) / 1e6,
            cycles=_whole(row["cycles_total"]),
            inference_ms=float(row["inference_time"]) * 1e3,
            used_bytes=_by_memory({name: round(float(row[f"{name}_memory_used"]) * 1024) for name in _MEMORIES}),
            moved_bytes=_by_memory({name: _whole(row[f"{name}_total_bytes"]) for name in _MEMORIES}),
            moved_gb_s=_by_memory({name: _moved_gb_s(row, name) for name in _MEMORIES}),
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
    """Operators that Vela fuses into the one before them have no cycles and are left out, so that the others add up to all."""
    header, *lines = text.splitlines()
    names = header.split(",")
    found = []
    for line in lines:
        row = dict(
            zip(names, line.split(",", len(names) - 1), strict=True)
        )  # unquoted: a name, in the last column, may hold commas
        kind, device, cycles, macs, use, name = (row[column] for column in _LAYER_COLUMNS)
        if device == "NPU" and not _whole(cycles) and not _whole(macs):
            continue
        share = float(use) / 100 if _whole(cycles) else 0.0
        found.append(LayerCycles(kind, name, device, _whole(cycles), _whole(macs), share))
    return tuple(found)


def _moved_gb_s(row: Mapping[str, str], memory: str) -> float:
    return float(row[f"{memory}_total_bytes"]) / float(row["inference_time"]) / 1e9


def _by_memory(values: Mapping[str, T]) -> dict[str, T]:
    """Those that are used, by their names in words."""
    return {name.replace("_", " "): value for name, value in values.items() if value}


def _whole(text: str) -> int:
    return round(float(text))


def _dashed(name: str) -> str:
    """`Ethos_U55_128` -> `ethos-u55-128`."""
    return name.lower().replace("_", "-")
