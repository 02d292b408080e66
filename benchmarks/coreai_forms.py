"""Core AI's forms on photographs, in Apple's interpreter: the integers, the size, and how long an export takes beside ONNX's."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contestants import NETWORKS
from benchmarks.integers import FAST
from benchmarks.recording import assets, interleaved, ratio, write
from squeeze_export.core import Artifact, ByteArray, EmitOptions, FloatArray
from squeeze_export.files import content_size, read_content
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.quantized import FP16, FP32, INT8, Scheme
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.folders import open_calibration
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.measure.accuracy import compare
from squeeze_export.pipeline import calibrate, export, open_network
from squeeze_export.runtimes import runtime_named
from squeeze_export.runtimes.coreai import inner_values

COUNT, ROUNDS = 100, 5


@dataclass(frozen=True)
class Form:
    """How a file is written, and what it is compared with: the exact integer run, or the fp32 reference."""

    name: str
    scheme: Scheme
    options: EmitOptions
    against: str


FORMS = (
    Form("int8, exact", INT8, EmitOptions(), "integer run"),
    Form("int8, qdq", INT8, EmitOptions(coreai_form="qdq"), "integer run"),
    Form("int8, qdq, float16", INT8, EmitOptions(coreai_form="qdq", coreai_compute="float16"), "integer run"),
    Form("fp32", FP32, EmitOptions(), "fp32 reference"),
    Form("fp16", FP16, EmitOptions(), "fp32 reference"),
)


def inferred(artifact: Artifact, pixels: ByteArray) -> FloatArray:
    """The file's logits, image by image."""
    session = runtime_named("coreai").open_session(artifact, device="cpu", threads=1)
    try:
        return session.infer(pixels)
    finally:
        session.close()


def equal_layers(artifact: Artifact, runner: IntegerRunner, pixels: ByteArray) -> int:
    """On how many images the last convolution's integers are those of the integer run."""
    last = runner.quantized.convs[-1].name
    q = runner.quantized.tensors[last]
    same = 0
    for image in pixels:
        seen: dict[str, Any] = {}
        runner(image[None], tap=lambda name, values, seen=seen: seen.update({name: values}))  # type: ignore[misc]
        found = inner_values(artifact, [last], image[None])[last]
        expected = (seen[last].astype(np.float32) - np.float32(q.zero_point)) * np.float32(q.scale)
        same += int(np.array_equal(found, expected))
    return same


def rows_of(name: str, checkpoint: Path, folder: Path) -> list[dict[str, Any]]:
    """Every form of a network."""
    network = open_network(checkpoint)
    table = calibrate(network, assets() / "images" / "calib").quantized
    files = open_calibration(assets() / "images" / "eval").files[:COUNT]
    pixels = np.stack([load_pixels(file, network.graph.preprocess) for file in files])
    runner = IntegerRunner(table)
    expected = {"integer run": runner(pixels), "fp32 reference": FloatRunner(network.graph)(pixels)}
    found = []
    for form in FORMS:
        source = table if form.scheme.integer else network.graph
        files_of = {
            target: export(source, target, form.scheme, folder, name=f"{target}-{FORMS.index(form)}", options=options)[0]
            for target, options in (("coreai", form.options), ("onnx", EmitOptions()))
        }
        logits, wanted = inferred(files_of["coreai"], pixels), expected[form.against]
        accuracy = compare(wanted, logits)
        sizes = {target: content_size(read_content(artifact.path)) for target, artifact in files_of.items()}
        found.append(
            {
                "network": name,
                "form": form.name,
                "against": form.against,
                "bit_equal": int((logits == wanted).all(axis=1).sum()),
                "last_layer_equal": equal_layers(files_of["coreai"], runner, pixels) if form.name == "int8, exact" else None,
                "same_top1": int((logits.argmax(1) == wanted.argmax(1)).sum()),
                "sqnr_db": accuracy.sqnr_db,
                "bytes": sizes,
            }
        )
        print(found[-1], file=sys.stderr)
    return found


def export_times(folder: Path) -> dict[str, list[float]]:
    """Wall time of whole commands, which calibrate and export SqueezeNet 1.1, s."""
    words = (
        "--int8",
        "--weights",
        str(assets() / "weights" / NETWORKS["SqueezeNet 1.1"]),
        "--calib",
        str(assets() / "images" / "calib"),
    )
    commands = {
        target: [
            *(sys.executable, "-m", "squeeze_export", target, *words),
            *("--no-validate", "--no-bench", "--out", str(folder / target)),
        ]
        for target in ("onnx", "coreai")
    }
    return {target: [run.wall_s for run in runs] for target, runs in interleaved(commands, ROUNDS).items()}


def main() -> None:
    """Runs the benchmark and writes its results."""
    with tempfile.TemporaryDirectory() as name:
        found = [row for network, file in NETWORKS.items() for row in rows_of(network, assets() / "weights" / file, Path(name))]
        walls = export_times(Path(name))
    medians = {target: statistics.median(times) for target, times in walls.items()}
    write(
        "coreai_forms",
        "Core AI's forms",
        [
            f"{COUNT} photographs in Apple's interpreter for Linux (*emulated*; it says nothing about a device). Bit-equal: all"
            " logits of the photograph. The last convolution's integers were compared too, for the exact form. Size: the asset"
            " over our ONNX file of the same scheme. The command that calibrates and exports SqueezeNet 1.1 took"
            f" {medians['coreai']:.2f} s, start included, for ONNX {medians['onnx']:.2f} s:"
            f" {ratio(walls['coreai'], walls['onnx'])} ({ROUNDS} interleaved rounds)."
        ],
        ("network", "form", "against", "bit-equal", "last layer", "same top-1", "SQNR", "bytes", "of ONNX's"),
        [shown(row) for row in found],
        {"rows": found, "export_wall_s": walls},
        integers=[FAST],
    )
    broken = [row for row in found if row["form"] == "int8, exact" and {row["bit_equal"], row["last_layer_equal"]} != {COUNT}]
    if broken:
        sys.exit("the exact form gives other integers")


def shown(row: Mapping[str, Any]) -> Sequence[str]:
    """A row of the table."""
    last, sqnr = row["last_layer_equal"], row["sqnr_db"]
    return (
        row["network"],
        row["form"],
        row["against"],
        f"{row['bit_equal']} of {COUNT}",
        "" if last is None else f"{last} of {COUNT}",
        f"{row['same_top1']} of {COUNT}",
        "exact" if np.isinf(sqnr) else f"{sqnr:.1f} dB",
        f"{row['bytes']['coreai']:,}",
        f"{row['bytes']['coreai'] / row['bytes']['onnx']:.3f}",
    )


if __name__ == "__main__":
    main()
