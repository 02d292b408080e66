"""Qualcomm's Hexagon on its emulator: agreement with the fp32 reference, share of operators on it, and the compiled files.

`--files DIR` keeps the tables of the recipe `best` there, and makes only those that are missing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contestants import NETWORKS, OURS, OURS_BEST, _best
from benchmarks.integers import FAST
from benchmarks.recording import assets, write
from squeeze_export.compilers import Compiled
from squeeze_export.compilers import qnn as compiler
from squeeze_export.core import Artifact, ByteArray, FloatArray, Placement
from squeeze_export.errors import Refused
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.folders import open_images
from squeeze_export.images.stream import ImageStream, spread_evenly, usable_cores
from squeeze_export.measure.accuracy import Tally, accuracy_of, tally
from squeeze_export.pipeline import Job, open_network, run
from squeeze_export.pipeline.export import keep_compiled, read_artifact
from squeeze_export.pipeline.network import Network
from squeeze_export.report.wording import decibel, percent, percent_range, size
from squeeze_export.results import Accuracy
from squeeze_export.runtimes import onnxruntime
from squeeze_export.runtimes import qnn as runtime

SOCS = ("SM8450", "SM8650")
"""Two whose arithmetic differs: v69 and v75."""
UNCORRECTED = {"bias_correction": "off"}
IMAGES = 100
DEVICE = "htp-emulator"


@dataclass(frozen=True)
class Product:
    """A compiled file.

    Attributes:
        maker: `OURS` or `OURS_BEST`.
        soc: that it is for.
        artifact: the file; None where it cannot be compiled.
        facts: of the compilation.
        failure: why it cannot be compiled.
    """

    maker: str
    soc: str
    artifact: Artifact | None
    facts: dict[str, Any]
    failure: str = ""


def source_files(network: str, file: str, tables: Path, folder: Path) -> dict[tuple[str, str], Artifact]:
    """Maker and scheme -> the ONNX file."""
    common = Job(
        targets=("onnx",),
        scheme="int8",
        weights=assets() / "weights" / file,
        calib=assets() / "images" / "calib",
        validate=False,
        bench=False,
    )
    jobs = {
        (OURS, "int8"): replace(common, out=folder / "fast"),
        (OURS, "int8-npu"): replace(common, scheme="int8-npu", out=folder / "npu"),
        (OURS_BEST, "int8"): replace(common, table=_best(tables / network, file), out=folder / "best"),
    }
    made = {}
    for (maker, scheme), job in jobs.items():
        print(f"{network}: {scheme} by {maker}", file=sys.stderr)
        (row,) = run(job).measurements
        made[maker, scheme] = read_artifact(job.out / row.artifact)
    return made


def compiled(source: Artifact, maker: str, soc: str, settings: Mapping[str, str]) -> Product:
    """Compiles a file and gives it its name; the compiler has loaded it again and compared it before it returns."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            made: Compiled = compiler.compile_for(source, soc, settings, Path(folder))
    except Refused as err:
        return Product(maker, soc, None, {}, err.message)
    path = source.path.with_name(f"{source.path.stem}.{soc}{'.uncorrected' if settings else ''}{compiler.SUFFIX}")
    return Product(maker, soc, keep_compiled(made.content, path, source, compiler.NAME, {}), dict(made.settings))


def product_keys(made: Iterable[tuple[str, str]]) -> list[tuple[tuple[str, str], str, Mapping[str, str]]]:
    """Maker and scheme, SoC, settings: `int8` for both, for the one that rounds down without the correction too."""
    down, other = SOCS
    chosen: list[tuple[str, Mapping[str, str]]] = [(down, UNCORRECTED), (down, {}), (other, {})]
    return [(key, soc, settings) for key in made for soc, settings in (chosen if key[1] == "int8" else chosen[1:])]


def images_of(network: Network) -> tuple[ByteArray, FloatArray, Any]:
    """Pixels, reference logits and labels of the part of the evaluation set that is compared."""
    images = open_images(assets() / "images" / "eval", class_count=network.class_count, labels=network.classes)
    part = spread_evenly(0, len(images.files), len(images.files), IMAGES)
    labels = tuple(label for label, kept in zip(images.labels or (), part, strict=True) if kept)
    files = tuple(file for file, kept in zip(images.files, part, strict=True) if kept)
    batch, _ = ImageStream(replace(images, files=files, labels=labels), network.graph.preprocess, workers=usable_cores()).load()
    return batch.pixels, FloatRunner(network.graph)(batch.pixels), batch.labels


def run_apart(artifact: Artifact, pixels: Path) -> tuple[FloatArray, Placement]:
    """In a process of its own: logits and placement of a compiled file."""
    session = runtime.open_session(artifact, device=DEVICE, threads=1)
    return session.infer(np.load(pixels)), session.placement


def on_this_cpu(artifact: Artifact, pixels: ByteArray, expected: FloatArray, labels: Any) -> Accuracy:
    """The same file on ONNX Runtime's CPU provider."""
    session = onnxruntime.open_session(artifact, device="cpu", threads=1)
    return accuracy_of(tally(Tally(), expected, session.infer(pixels), labels))


def main() -> None:
    """Runs the benchmark and writes its results: as many files at once as there are cores, since no time is taken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.qnn_accuracy")
    parser.add_argument("--files", type=Path, help="folder for the tables of best; those that are there are not made again")
    kept = parser.parse_args().files
    rows: list[Sequence[str]] = []
    raw: list[dict[str, Any]] = []
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary, ProcessPoolExecutor(usable_cores(), mp_context=spawn) as pool:
        waiting = []
        for network, file in NETWORKS.items():
            opened = open_network(assets() / "weights" / file, labels=assets() / "images" / "imagenet_wnids.txt")
            files = source_files(network, file, kept or Path(temporary), Path(temporary) / network)
            pixels, expected, labels = images_of(opened)
            np.save(Path(temporary) / f"{network}.npy", pixels)
            here = {key: on_this_cpu(artifact, pixels, expected, labels) for key, artifact in files.items()}
            for (maker, scheme), soc, settings in product_keys(files):
                product = compiled(files[maker, scheme], maker, soc, settings)
                running = pool.submit(run_apart, product.artifact, Path(temporary) / f"{network}.npy") if product.artifact else None
                waiting.append((network, scheme, product, running, expected, labels, here[maker, scheme]))
        for network, scheme, product, running, expected, labels, on_cpu in waiting:
            accuracy, placement = None, None
            if running is not None:
                logits, placement = running.result()
                accuracy = accuracy_of(tally(Tally(), expected, logits, labels))
            rows.append(_row(network, scheme, product, accuracy, placement, on_cpu))
            raw.append(_record(network, scheme, product, accuracy, placement, on_cpu))
            print(rows[-1], file=sys.stderr)
    write(
        "qnn_accuracy",
        "Qualcomm Hexagon, emulated",
        [
            f"Emulated by Qualcomm's library on x86-64, not measured on a chip: {IMAGES} photographs, spread evenly over the "
            "evaluation set, compared with the fp32 reference; 128 others for calibration. Each file is compiled for a SoC, loaded "
            "again and run. Fall-back to the CPU is switched off. Last: the same file and photographs on ONNX Runtime's CPU,"
            " measured, which gives the exact integers. Corrected: what the HTP rounds down, the biases make up for."
        ],
        (
            "network",
            "quantized by",
            "scheme",
            "SoC",
            "corrected",
            "on the HTP",
            "in integers",
            "MACs in integers",
            "agreement",
            "SQNR",
            "file",
            "on the CPU",
        ),
        rows,
        raw,
        integers=[FAST],
    )


def _row(network: str, scheme: str, product: Product, accuracy: Accuracy | None, placement: Any, on_cpu: Accuracy) -> Sequence[str]:
    beside = f"{percent(on_cpu.top1_agreement.value)}, {decibel(on_cpu.sqnr_db)}"
    soc = f"{product.soc} ({product.facts['htp_arch']})" if product.facts else product.soc
    if accuracy is None or product.artifact is None:
        return (network, product.maker, scheme, soc, "-", "not compiled", "-", "-", "-", "-", "-", beside)
    return (
        network,
        product.maker,
        scheme,
        soc,
        "yes" if "bias_correction" in product.facts else "no",
        f"{placement.device_count} of {placement.operator_count}",
        str(placement.integer_count),
        percent(placement.integer_mac_share),
        f"{percent(accuracy.top1_agreement.value)} {percent_range(accuracy.top1_agreement)}",
        decibel(accuracy.sqnr_db),
        size(product.artifact.size_bytes),
        beside,
    )


def _record(
    network: str, scheme: str, product: Product, accuracy: Accuracy | None, placement: Any, on_cpu: Accuracy
) -> dict[str, Any]:
    base = {"network": network, "maker": product.maker, "scheme": scheme, "soc": product.soc, "compilation": product.facts}
    base["on_this_cpu"] = {"top1_agreement": on_cpu.top1_agreement.value, "sqnr_db": on_cpu.sqnr_db}
    if accuracy is None or product.artifact is None:
        return {**base, "failure": product.failure}
    return {
        **base,
        "size_bytes": product.artifact.size_bytes,
        "count": accuracy.count,
        "top1_agreement": [accuracy.top1_agreement.value, accuracy.top1_agreement.low, accuracy.top1_agreement.high],
        "top5_agreement": accuracy.top5_agreement,
        "sqnr_db": accuracy.sqnr_db,
        "kl": accuracy.kl,
        "top1": accuracy.top1,
        "reference_top1": accuracy.reference_top1,
        "operator_count": placement.operator_count,
        "device_count": placement.device_count,
        "integer_count": placement.integer_count,
        "integer_mac_share": placement.integer_mac_share,
        "float_operators": list(placement.float_operators),
        "source": placement.source,
    }


if __name__ == "__main__":
    main()
