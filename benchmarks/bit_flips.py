"""Single-bit flips in exported files, tables and sidecars of every format: does `verify` find each?

Of 200 flips, drawn with the seed below, 80 are in files (all files of the folders too), 40 in tables, and 80 in sidecars, a
quarter of these in the checksum's own line. The demo network, in int8 and fp32. Every product is verified unchanged first: the
negative control.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.recording import write
from squeeze_export import demo
from squeeze_export.graph.quantized import FP32, INT8
from squeeze_export.pipeline import calibrate, export, open_network, verify, write_table
from squeeze_export.pipeline.sidecar_document import sidecar_path
from squeeze_export.registry import TARGETS

SEED = 20
FILE_FLIPS, TABLE_FLIPS, SIDECAR_FLIPS, CHECKSUM_FLIPS = 80, 40, 60, 20


def products(folder: Path) -> list[Path]:
    """int8 and fp32 files of every target, and a table."""
    network = open_network()
    calibration = calibrate(network, demo.calibration_folder())
    made = []
    for target in TARGETS:
        made += [export(calibration.quantized, target, INT8, folder, name="net")[0].path]
        made += [export(network.graph, target, FP32, folder, name="net")[0].path]
    write_table(calibration, folder / "net.int8.table")
    return made


def drawn(folder: Path, made: list[Path]) -> Iterator[tuple[str, Path, Path, int]]:
    """Kind, product, file to change, and number of the bit: the products in turn, any bit of them alike."""
    draw = np.random.default_rng(SEED)
    for number in range(FILE_FLIPS):
        product = made[number % len(made)]
        files = [product] if product.is_file() else sorted(file for file in product.rglob("*") if file.is_file())
        ends = np.cumsum([file.stat().st_size for file in files])
        at = int(draw.integers(ends[-1] * 8))
        index = int(np.searchsorted(ends * 8, at, side="right"))
        yield f"{product.suffix.removeprefix('.')} files", product, files[index], at - int(ends[index - 1] * 8 if index else 0)
    table = folder / "net.int8.table"
    header = 8 + int.from_bytes(table.read_bytes()[:8], "little")
    for number in range(TABLE_FLIPS):  # half of them in the header, which is small
        bits = 8 * (header if number % 2 else table.stat().st_size)
        yield "tables", table, table, int(draw.integers(bits))
    for number in range(SIDECAR_FLIPS + CHECKSUM_FLIPS):
        product = made[number % len(made)]
        sidecar = sidecar_path(product)
        data = sidecar.read_bytes()
        own = number >= SIDECAR_FLIPS
        first = data.rindex(b' "checksum"') * 8 if own else 0
        yield "checksum lines of sidecars" if own else "sidecars", product, sidecar, int(draw.integers(first, len(data) * 8))


def main() -> None:
    """Runs the benchmark and writes its results."""
    found: dict[str, list[bool]] = {}
    missed = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = products(folder)
        for one in verify(folder):
            if one.differences or one.unchecked:
                sys.exit(f"{one.file} differs before anything was changed: {one.differences} {one.unchecked}")
        for kind, product, file, bit in drawn(folder, made):
            before = file.read_bytes()
            changed = bytearray(before)
            changed[bit // 8] ^= 1 << bit % 8
            file.write_bytes(changed)
            (one,) = verify(product)
            file.write_bytes(before)
            found.setdefault(kind, []).append(bool(one.differences))
            if not one.differences:
                missed.append({"file": file.name, "bit": bit})
            print(f"{kind}: {one.differences[:1]}", file=sys.stderr)
    flips = sum(len(each) for each in found.values())
    write(
        "bit_flips",
        "Single-bit flips",
        [f"The demo network in int8 and fp32, {flips} flips, seed {SEED}. Half of those in tables are in the header."],
        ("a flipped bit in", "flips", "found by verify"),
        [(kind, str(len(each)), str(sum(each))) for kind, each in found.items()],
        {"seed": SEED, "missed": missed, "found": {kind: [len(each), sum(each)] for kind, each in found.items()}},
    )
    if missed:
        sys.exit(f"{len(missed)} flips were not found")


if __name__ == "__main__":
    main()
