"""Which results still describe this code? The integers that a small fixed network gets from each recipe answer that.

    python -m benchmarks.integers      # after a change that is meant to change integers: writes integers.safetensors anew

`integers.safetensors` holds them. Every result that rests on integers stores their hash (`recording.write`), and a test
(tests/benchmarks/test_stale_results.py) says which results were made with others.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from PIL import Image

from squeeze_export.core import Preprocess
from squeeze_export.files import write_bytes
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.nets.architecture import Architecture, Fire, tensor_shapes
from squeeze_export.nets.safetensors_file import write_safetensors
from squeeze_export.pipeline import calibrate, open_network, write_table
from squeeze_export.quant.distill import DISTILLATION

STORED = Path(__file__).parent / "integers.safetensors"
FAST, BEST = "int8 by fast", "int8 by best"
CASES: Mapping[str, tuple[str, str]] = {
    FAST: ("int8", "fast"),
    BEST: ("int8", "best"),
    "int8-npu by fast": ("int8-npu", "fast"),
    "int8-symmetric by fast": ("int8-symmetric", "fast"),
    "int8-per-tensor by fast": ("int8-per-tensor", "fast"),
    "int16x8 by fast": ("int16x8", "fast"),
    "int16x8 by best": ("int16x8", "best"),
}
"""Name -> scheme and recipe."""
DIFFERENT_DISTILLATION = 0.2
"""Largest relative difference of the error after distillation: a hundred updates amplify the last bits."""

NETWORK = Architecture("squeezenet_custom", 8, 3, (Fire(4, 8, 8), Fire(4, 8, 8)), (0,), 5)
PREPROCESS = Preprocess(36, 32, "bilinear", "rgb", (127.5, 127.5, 127.5), (64.0, 64.0, 64.0))
IMAGE_COUNT = 40

Arrays = Mapping[str, NDArray[np.generic]]
"""`<layer>.weight`, `.scale` and `.bias`, and `<tensor>.range`: its scale and zero point."""

DIFFERENT_WEIGHTS = 0.02
"""Largest share of a layer's weights that may be another integer, by one step at most; two may be in any layer. Sums differ between
CPUs in their last bits."""
DIFFERENT_SCALES = 0.005
"""Largest relative difference of a scale; of a bias, to the layer's largest."""


def made(cases: Iterable[str] = CASES) -> dict[str, Arrays]:
    """Case -> what this code makes of the network."""
    found: dict[str, Arrays] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_inputs(folder)
        network = open_network(folder / "net.safetensors")
        for case in cases:
            scheme, recipe = CASES[case]
            calibration = calibrate(network, folder / "images", scheme=scheme_named(scheme), recipe=recipe, threads=1)
            write_table(calibration, folder / "table")
            found[case] = _arrays((folder / "table").read_bytes())
    return found


def _write_inputs(folder: Path) -> None:
    """Random weights with outliers, so that ranges clip, and images of smooth noise, no two alike."""
    draw = np.random.default_rng(0)
    tensors = {
        key: (draw.standard_t(3, size=shape) * (np.sqrt(1 / np.prod(shape[1:])) if len(shape) > 1 else 0.1)).astype(np.float32)
        for key, shape in tensor_shapes(NETWORK).items()
    }
    write_safetensors(folder / "net.safetensors", NETWORK, tensors, PREPROCESS)
    (folder / "images").mkdir()
    for index in range(IMAGE_COUNT):
        pixels = np.random.default_rng([1, index]).integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(pixels).resize((48, 40), Image.Resampling.BILINEAR).save(folder / "images" / f"{index:02}.png")


def _arrays(table: bytes) -> dict[str, NDArray[np.generic]]:
    """A table file's arrays, and from its header every tensor's scale and zero point, and what distillation came to.

    On so small a network the distillation is not kept, so its own figure has to stand for it.
    """
    found: dict[str, NDArray[np.generic]] = dict(safetensors.numpy.load(table))
    size = int.from_bytes(table[:8], "little")
    header = json.loads(json.loads(table[8 : 8 + size])["__metadata__"]["squeeze_export_table"])
    for name, quantization in header["tensors"].items():
        values = quantization.values() if isinstance(quantization, dict) else quantization
        found[f"{name}.range"] = np.array([float(value) for value in values])
    if DISTILLATION in header["provenance"]:
        found[DISTILLATION] = np.array([header["provenance"][DISTILLATION]["error_after"]])
    return found


def stored() -> dict[str, dict[str, NDArray[np.generic]]]:
    """Case -> what `integers.safetensors` has of it."""
    found: dict[str, dict[str, NDArray[np.generic]]] = {case: {} for case in CASES}
    for key, values in safetensors.numpy.load_file(STORED).items():
        case, name = key.split("/", 1)
        found[case][name] = values
    return found


def hashes(arrays: Mapping[str, Arrays]) -> dict[str, str]:
    """Case -> the first 16 digits of the SHA-256 of its arrays."""
    return {case: _hash(values) for case, values in arrays.items()}


def _hash(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode() + arrays[name].tobytes())
    return digest.hexdigest()[:16]


def differences(before: Arrays, after: Arrays) -> list[str]:
    """What is not the same by more than rounding; empty where all is."""
    if set(before) != set(after):
        return sorted(set(before) ^ set(after))
    return [name for name in sorted(before) if not _same(name, before[name], after[name])]


def _same(name: str, before: NDArray[np.generic], after: NDArray[np.generic]) -> bool:
    if before.shape != after.shape or before.dtype != after.dtype:
        return False
    first, second = before.astype(np.float64), after.astype(np.float64)
    if before.dtype == np.int8:
        apart = np.abs(first - second)
        return bool(apart.max() <= 1 and (apart > 0).sum() <= max(2, DIFFERENT_WEIGHTS * apart.size))
    allowed = DIFFERENT_DISTILLATION if name == DISTILLATION else DIFFERENT_SCALES
    return bool((np.abs(first - second) <= allowed * max(np.abs(first).max(), np.abs(second).max())).all())


def main() -> int:
    """Writes the integers of this code."""
    arrays = {f"{case}/{name}": values for case, tables in made().items() for name, values in tables.items()}
    write_bytes(STORED, safetensors.numpy.save(arrays))
    for case, digest in hashes(stored()).items():
        sys.stdout.write(f"{case}: {digest}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
