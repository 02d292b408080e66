"""Arm Vela's estimates for every Ethos-U: our int8 file beside that of TensorFlow's converter, which is fully integer here too."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.contestants import NETWORKS
from benchmarks.integers import FAST
from benchmarks.recording import assets, write
from squeeze_export.compilers import ethosu
from squeeze_export.core import Artifact, ByteArray, EmitOptions, FloatArray, TensorSpec, require
from squeeze_export.graph.nodes import Graph
from squeeze_export.images.folders import open_calibration
from squeeze_export.images.stream import ImageStream, usable_cores
from squeeze_export.peers import Source
from squeeze_export.peers import tensorflow as peer
from squeeze_export.peers.network import with_mean_outside
from squeeze_export.pipeline import Job, open_network, run
from squeeze_export.report.wording import milliseconds, size
from squeeze_export.results import Estimate

OURS = "squeeze-export"
FOLDED = "TensorFlow's converter, the mean folded as in ours"
OUTSIDE = "TensorFlow's converter, the mean subtracted in the network"
STRATEGIES = ("Performance", "Size")
PIXELS: tuple[Literal["uint8", "int8"], ...] = ("uint8", "int8")
"""What the files take: photographs as they are, and 128 lower, which spares the NPU an operator."""
EITHER = "the best of each with either pixels"
BOUND = 1.01


@dataclass(frozen=True)
class Figures:
    """What Vela says of one file on one accelerator.

    Attributes:
        estimate: its figures.
        on_npu: operators of the file that run on the NPU.
        operator_count: of the file.
    """

    estimate: Estimate
    on_npu: int
    operator_count: int


def converted(graph: Graph, mean: FloatArray, pixels: ByteArray, dtype: str) -> bytes:
    """The converter's full-integer quantization as in the peer, with int8 output as well, so that no float operator is left."""
    tf: Any = require("tensorflow", "peers")
    signature = tf.TensorSpec((1, *graph.input.shape[1:]), tf.float32, name=graph.input.name)
    module = tf.Module()
    module.network = tf.function(peer._network(tf, graph, mean), input_signature=[signature], autograph=False)

    def images() -> Iterator[list[FloatArray]]:
        for image in pixels:
            yield [image[None].astype(np.float32)]

    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.network.get_concrete_function()], module)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = images
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.dtypes.as_dtype(dtype)
    converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def files(file: str, folder: Path) -> dict[tuple[str, str], Path]:
    """Maker and type of the pixels -> the file."""
    weights, calib = assets() / "weights" / file, assets() / "images" / "calib"
    made: dict[tuple[str, str], Path] = {}
    for dtype in PIXELS:
        form, out = EmitOptions(input_dtype=dtype), folder / dtype
        job = Job(("tflite",), "int8-npu", weights, calib, out=out, options=form, validate=False, bench=False)
        made[OURS, dtype] = out / run(job).measurements[0].artifact
    network = open_network(weights)
    images, _ = ImageStream(open_calibration(calib), network.graph.preprocess, workers=usable_cores()).load()
    graph, mean = with_mean_outside(Source(network.graph, folder, images.pixels))
    for dtype in PIXELS:
        for maker, body, subtracted in ((FOLDED, network.graph, np.zeros(3, np.float32)), (OUTSIDE, graph, mean)):
            made[maker, dtype] = folder / f"{maker[-7:]}.{dtype}.tflite"
            made[maker, dtype].write_bytes(converted(body, subtracted, images.pixels, dtype))
    return made


def figures(path: Path, accelerator: str, optimise: str) -> Figures:
    """Compiles a file with the accelerator's default system configuration and memory mode."""
    spec = TensorSpec("", (), "uint8", "NHWC")
    artifact = Artifact(path, ethosu.TARGET, ethosu.SCHEMES[0], "", path.stat().st_size, spec, spec)
    with tempfile.TemporaryDirectory() as folder:
        compiled = ethosu.compile_for(artifact, accelerator, {"optimise": optimise}, Path(folder))
    assert compiled.estimate is not None
    assert compiled.placement is not None
    return Figures(compiled.estimate, compiled.placement.device_count or 0, compiled.placement.operator_count)


def beside_theirs(cycles: Mapping[tuple[str, str, str], int], dtype: str) -> tuple[str, int, tuple[float, ...]]:
    """The strategy that `--optimise auto` keeps, its cycles, and these beside each of their files and beside their best.

    Args:
        cycles: by maker, type of the pixels and Vela's strategy.
        dtype: of the pixels.
    """
    aim = min(STRATEGIES, key=lambda strategy: cycles[OURS, dtype, strategy])
    ours = cycles[OURS, dtype, aim]
    best = min(count for (maker, pixels, _), count in cycles.items() if maker != OURS and pixels == dtype)
    theirs = (cycles[FOLDED, dtype, STRATEGIES[0]], cycles[OUTSIDE, dtype, STRATEGIES[0]], best)
    return aim, ours, tuple(ours / count for count in theirs)


def sram(estimate: Estimate) -> str:
    """Bytes of SRAM, in words."""
    return size(estimate.used_bytes.get("sram", 0))


def main() -> None:
    """Runs the benchmark and writes its results."""
    rows: list[Sequence[str]] = []
    raw: list[dict[str, Any]] = []
    columns = [f"{beside}, {dtype} pixels" for dtype in PIXELS for beside in ("the mean folded", "the mean inside", "their best")]
    above: dict[str, list[str]] = {beside: [] for beside in (*columns, EITHER)}
    left = 0
    for network, file in NETWORKS.items():
        with tempfile.TemporaryDirectory() as folder:
            made = files(file, Path(folder))
            for accelerator in ethosu.CHIPS:
                found = {(*key, aim): figures(path, accelerator, aim) for key, path in made.items() for aim in STRATEGIES}
                cycles = {key: entry.estimate.cycles for key, entry in found.items()}
                (aim, _, ratios), (_, spared, more) = (beside_theirs(cycles, dtype) for dtype in PIXELS)
                ours, small = found[OURS, PIXELS[0], aim].estimate, found[OURS, PIXELS[0], "Size"].estimate
                best = [min(count for (maker, *_), count in cycles.items() if (maker == OURS) is own) for own in (True, False)]
                for beside, ratio in zip(above, (*ratios, *more, best[0] / best[1]), strict=True):
                    above[beside] += [f"{network} on {accelerator} {ratio:.2f}"] if ratio > BOUND else []
                left += sum(entry.operator_count - entry.on_npu for (maker, *_), entry in found.items() if maker != OURS)
                print(f"{network} {accelerator}: {ratios} {more}", file=sys.stderr)
                settings, counted = ours.settings, found[OURS, PIXELS[0], aim]
                rows.append(
                    (
                        network,
                        accelerator,
                        f"{settings['system_config']}, {settings['memory_mode']}, {ours.clock_mhz:,.0f} MHz",
                        aim,
                        f"{ours.cycles:,}",
                        f"{cycles[FOLDED, PIXELS[0], STRATEGIES[0]]:,}",
                        f"{ratios[0]:.4f}",
                        f"{ratios[1]:.2f}",
                        f"{ratios[2]:.4f}",
                        f"{spared:,}",
                        f"{more[0]:.4f}",
                        f"{best[0] / best[1]:.4f}",
                        milliseconds(ours.inference_ms),
                        sram(ours),
                        milliseconds(small.inference_ms),
                        sram(small),
                        f"{counted.on_npu} of {counted.operator_count}",
                    )
                )
                raw += [_record(network, accelerator, maker, dtype, entry) for (maker, dtype, _), entry in found.items()]
    named = [(beside, f" ({', '.join(names)})" if names else "") for beside, names in above.items()]
    bound = "; ".join(f"{beside}, {len(above[beside])} of {len(rows)}{names}" for beside, names in named)
    write(
        "ethosu_cycles",
        "Ethos-U: cycles that Vela estimates, ours beside TensorFlow's converter",
        [
            f"Estimated by {ours.tool} from its own model of the chip, not measured; Arm advises against comparing figures of "
            "different settings. Theirs: TensorFlow's converter, full integer with int8 output, the same weights and photographs; "
            "the mean is folded into the first convolution as in ours, or (mean inside) subtracted in the network. Ours is what "
            "`squeeze-export ethosu` gives, the strategy of fewer cycles; theirs Vela's default, Performance; where it says "
            "their best, that of both strategies and both files. With int8 pixels (`--input int8`, theirs likewise) there is no "
            f"QUANTIZE in front. Ratios above {BOUND}: {bound}. Operators of their files left to the CPU: "
            f"{left}."
        ],
        (
            "network",
            "accelerator",
            "system",
            "optimised for",
            "cycles, ours",
            "cycles, theirs",
            "ratio",
            "ratio, mean inside",
            "ratio, their best",
            "cycles, ours, int8 pixels",
            "ratio, int8 pixels",
            f"ratio, {EITHER}",
            "time, ours",
            "SRAM",
            "time, for size",
            "SRAM, for size",
            "on the NPU, ours",
        ),
        rows,
        raw,
        integers=[FAST, "int8-npu by fast"],
    )


def _record(network: str, accelerator: str, maker: str, dtype: str, found: Figures) -> dict[str, Any]:
    estimate = found.estimate
    return {
        "network": network,
        "accelerator": accelerator,
        "maker": maker,
        "pixels": dtype,
        "tool": estimate.tool,
        "settings": dict(estimate.settings),
        "clock_mhz": estimate.clock_mhz,
        "cycles": estimate.cycles,
        "inference_ms": estimate.inference_ms,
        "used_bytes": dict(estimate.used_bytes),
        "moved_bytes": dict(estimate.moved_bytes),
        "on_npu": found.on_npu,
        "operator_count": found.operator_count,
    }


if __name__ == "__main__":
    main()
