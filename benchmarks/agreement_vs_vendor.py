"""Agreement with fp32, ours against every vendor's, on twice as many images: the photographs and their mirror images.

Two good quantizers differ on few images: 472 do not tell a difference of one point from none. A mirrored photograph is another
input of the same kind; since it is no independent one, the interval is drawn over photographs, each with both its views.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contestants import NETWORKS, OURS, Contestant, contestants
from benchmarks.integers import FAST
from benchmarks.recording import assets, write
from squeeze_export.graph.run import FloatRunner, one_blas_thread
from squeeze_export.images.folders import open_calibration
from squeeze_export.images.stream import ImageStream, usable_cores
from squeeze_export.pipeline import RunOptions, open_network
from squeeze_export.pipeline.export import read_artifact
from squeeze_export.pipeline.sessions import entries_of, opened
from squeeze_export.report.wording import percent, signed
from squeeze_export.results import Interval

TARGETS = ("onnx", "tflite", "openvino")
"""Core ML's evaluator is left out: it is slow, and there the difference is plain in `accuracy_vs_vendor`."""
RESAMPLES = 10_000


def main() -> None:
    """Runs the benchmark and writes its results."""
    rows: list[Sequence[str]] = []
    raw: list[dict[str, Any]] = []
    with contestants() as made:
        for network, file in NETWORKS.items():
            files = [e for e in made if e.network == network and e.target in TARGETS and e.scheme == "int8"]
            agrees = _agreements(file, files)
            for entry, right in zip(files, agrees, strict=True):
                ours = next(a for e, a in zip(files, agrees, strict=True) if (e.target, e.maker) == (entry.target, OURS))
                pair = None if entry.maker == OURS else _difference(ours, right)
                shown = f"{signed(pair.value, 2)} [{signed(pair.low, 2)}, {signed(pair.high, 2)}]" if pair else ""
                rows.append((network, entry.target, entry.maker, percent(float(right.mean())), shown))
                raw.append(
                    {
                        "network": network,
                        "target": entry.target,
                        "maker": entry.maker,
                        "agreement": float(right.mean()),
                        "ours_minus_theirs_pp": asdict(pair) if pair else None,
                    }
                )
    write(
        "agreement_vs_vendor",
        "Agreement with fp32, ours and the vendors' own, on photographs and their mirror images",
        [
            "472 photographs and their mirror images. Ours - theirs: difference in agreement in percentage points, with a "
            "95% bootstrap interval over photographs, each with both its views. NNCF's accuracy control has seen the "
            "photographs and their labels."
        ],
        ("network", "target", "quantized by", "agreement", "ours - theirs"),
        rows,
        raw,
        integers=[FAST],
    )


def _agreements(file: str, files: Sequence[Contestant]) -> list[NDArray[np.bool_]]:
    """For each file, (views, photographs): whether its top-1 class is the reference's."""
    network = open_network(assets() / "weights" / file)
    pixels = ImageStream(open_calibration(assets() / "images" / "eval"), network.graph.preprocess).load()[0].pixels
    views = np.concatenate([pixels, pixels[:, :, ::-1]])
    run = FloatRunner(network.graph)
    with one_blas_thread(), ThreadPoolExecutor(usable_cores()) as pool:
        expected = np.concatenate(list(pool.map(run, np.split(views, len(views))))).argmax(axis=1)
    entries = entries_of([read_artifact(entry.path) for entry in files], RunOptions())
    with opened(entries, RunOptions(threads=usable_cores())) as outcomes:
        sessions = [outcome.session for outcome in outcomes if outcome.session is not None]
        found = [session.infer(views).argmax(axis=1) == expected for session in sessions]
    return [right.reshape(2, len(pixels)) for right in found]


def _difference(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> Interval:
    """Points. Source: percentile bootstrap over clusters, B. Efron, R. J. Tibshirani (1993), chapter 13."""
    by_photograph = 100 * (ours.mean(axis=0) - theirs.mean(axis=0))
    draws = np.random.default_rng(0).integers(0, len(by_photograph), (RESAMPLES, len(by_photograph)))
    low, high = np.percentile(by_photograph[draws].mean(axis=1), [2.5, 97.5])
    return Interval(float(by_photograph.mean()), float(low), float(high))


if __name__ == "__main__":
    main()
