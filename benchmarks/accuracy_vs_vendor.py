"""Our int8 files and every vendor's own against the fp32 reference, image by image, so that the two can be compared in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.contestants import ALL_NETWORKS, OURS_BEST, Contestant, contestants
from benchmarks.integers import BEST, FAST
from benchmarks.recording import assets, write
from squeeze_export.core import FloatArray
from squeeze_export.graph.run import FloatRunner, one_blas_thread
from squeeze_export.images.folders import open_images
from squeeze_export.images.label_files import read_labels
from squeeze_export.images.stream import ImageStream, usable_cores
from squeeze_export.measure.accuracy import compare
from squeeze_export.measure.statistics import paired_difference
from squeeze_export.pipeline import RunOptions, open_network
from squeeze_export.pipeline.export import read_artifact
from squeeze_export.pipeline.sessions import Key, entries_of, opened
from squeeze_export.report.wording import decibel, delta_pp, delta_range, percent, percent_range, signed
from squeeze_export.results import Interval

BATCH = 16


def main() -> None:
    """Runs the benchmark and writes its results."""
    rows: list[Sequence[str]] = []
    raw: list[dict[str, Any]] = []
    with contestants(everything=True) as made:
        for network, file in ALL_NETWORKS.items():
            _network(network, file, [entry for entry in made if entry.network == network], rows, raw)
    write(
        "accuracy_vs_vendor",
        "int8 accuracy, ours and the vendors' own",
        [
            "472 evaluation photographs, and 128 others for calibration, the same for all. Agreement: share of images "
            "with the same top-1 class as the fp32 reference, with its 95% Wilson interval. Best - this: the agreement of "
            "our recipe `best` minus that of the row, in percentage points, with its paired 95% interval (Tango). NNCF's "
            "accuracy control has seen the evaluation photographs and their labels. coreml-evaluator is emulated."
        ],
        ("network", "runtime", "scheme", "quantized by", "SQNR", "agreement", "best - this", "top-1", "delta"),
        rows,
        raw,
        integers=[FAST, BEST],
    )


def _network(network: str, file: str, files: Sequence[Contestant], rows: list[Sequence[str]], raw: list[dict[str, Any]]) -> None:
    reference, labels, outputs = _outputs(file, files)
    makers = {entry.path: entry.maker for entry in files}
    right = {key: logits.argmax(axis=1) == reference.argmax(axis=1) for key, logits in outputs.items()}
    for key, logits in outputs.items():
        path, runtime = key
        scheme = next(entry.scheme for entry in files if entry.path == path)
        found = compare(reference, logits, labels)
        assert found.top1 is not None
        assert found.top1_delta_pp is not None
        pair: Interval | None = None
        if scheme == "int8" and makers[path] != OURS_BEST:
            ours = next(right[k] for k in outputs if k[1] == runtime and makers[k[0]] == OURS_BEST)
            won, lost = int((ours & ~right[key]).sum()), int((right[key] & ~ours).sum())
            share = paired_difference(lost, won, len(ours))
            pair = Interval(100 * share.value, 100 * share.low, 100 * share.high)
        maker = makers[path] if scheme == "int8" else ""
        rows.append(
            (
                network,
                runtime,
                scheme,
                maker,
                decibel(found.sqnr_db),
                f"{percent(found.top1_agreement.value)} {percent_range(found.top1_agreement)}",
                f"{signed(pair.value, 2)} [{signed(pair.low, 1)}, {signed(pair.high, 1)}]" if pair else "",
                percent(found.top1),
                f"{delta_pp(found.top1_delta_pp)} {delta_range(found.top1_delta_pp)}",
            )
        )
        raw.append(
            {
                "network": network,
                "runtime": runtime,
                "scheme": scheme,
                "maker": maker,
                "accuracy": asdict(found),
                "best_minus_this_pp": asdict(pair) if pair else None,
            }
        )


def _outputs(file: str, files: Sequence[Contestant]) -> tuple[FloatArray, Any, Mapping[Key, FloatArray]]:
    """Logits of the reference, class indices, and the logits of every file."""
    network = open_network(assets() / "weights" / file)
    wnids = read_labels(assets() / "images" / "imagenet_wnids.txt")
    images = open_images(assets() / "images" / "eval", class_count=network.class_count, labels=wnids)
    entries = entries_of([read_artifact(entry.path) for entry in files], RunOptions())
    run = FloatRunner(network.graph)
    expected, labels, found = [], [], {entry.key: [] for entry in entries}  # type: ignore[var-annotated]
    with opened(entries, RunOptions()) as outcomes, one_blas_thread(), ThreadPoolExecutor(usable_cores()) as pool:
        sessions = {outcome.entry.key: outcome.session for outcome in outcomes if outcome.session is not None}
        for batch in ImageStream(images, network.graph.preprocess, batch=BATCH):
            running = {key: pool.submit(session.infer, batch.pixels) for key, session in sessions.items()}
            expected += list(pool.map(run, np.split(batch.pixels, len(batch.pixels))))
            labels.append(batch.labels)
            for key, output in running.items():
                found[key].append(output.result())
    return np.concatenate(expected), np.concatenate(labels), {key: np.concatenate(parts) for key, parts in found.items()}


if __name__ == "__main__":
    main()
