"""One short table out of the four results beside the vendors: what the README shows. Reads committed results, runs nothing."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contestants import NETWORKS, OURS, OURS_BEST
from benchmarks.integers import BEST, FAST
from benchmarks.recording import RESULTS, write
from squeeze_export.measure.statistics import bootstrap_ratio
from squeeze_export.peers import peer_of
from squeeze_export.registry import PEERS
from squeeze_export.report.wording import decibel, percent
from squeeze_export.targets import target_named

TOOLS = {"onnx": "ONNX Runtime", "tflite": "TensorFlow converter", "openvino": "NNCF", "coreml": "coremltools"}
NETWORK_OF_THE_TIMES = "SqueezeNet 1.1"


def main() -> None:
    """Writes the table."""
    accuracy, latency, size, times = (_results(f"{name}_vs_vendor") for name in ("accuracy", "latency", "size", "export_time"))
    rows: list[Sequence[str]] = []
    raw: list[dict[str, Any]] = []
    for network in NETWORKS:
        for target in PEERS:
            maker = peer_of(target).method("vendor")
            runtime = target_named(target).RUNTIMES[0]
            ours, best, theirs = (_one(accuracy, network, m, runtime=runtime)["accuracy"] for m in (OURS, OURS_BEST, maker))
            sizes = [int(_one(size, network, m, target=target)["size_bytes"]) for m in (OURS, maker)]
            timed = [e for e in latency if (e["network"], e["maker"], e["threads"], e["runtime"]) == (network, maker, 1, runtime)]
            faster = timed[0]["ours_over_theirs"] if timed else None
            export = _export_ratio(times, target, maker) if network == NETWORK_OF_THE_TIMES else ""
            rows.append(
                (
                    network,
                    runtime + (" (emulated)" if target == "coreml" else ""),
                    TOOLS[target],
                    _three(*(decibel(found["sqnr_db"]) for found in (ours, best, theirs))),
                    _three(*(percent(found["top1_agreement"]["value"]) for found in (ours, best, theirs))),
                    f"{faster['value']:.2f} [{faster['low']:.2f}, {faster['high']:.2f}]" if faster else "",
                    f"{sizes[0] / sizes[1]:.2f}",
                    export,
                )
            )
            raw.append({"network": network, "target": target, "vendor": maker})
    write(
        "side_by_side",
        "int8 beside the vendors' own quantizers",
        [
            "Each cell is ours / theirs: each vendor's tool in its default way, on the same checkpoint and photographs. "
            "SQNR and agreement with fp32 are over 472 photographs (higher is better), ours with the recipes `fast` and "
            "`best`. Latency (one thread, interleaved, 95% interval), bytes and export time are ratios with the recipe "
            "`fast`: below 1, ours is better. `accuracy_vs_vendor`, `latency_vs_vendor`, `size_vs_vendor` and "
            "`export_time_vs_vendor` have every row."
        ],
        ("network", "runtime", "vendor", "SQNR", "agreement", "latency", "bytes", "export time"),
        rows,
        raw,
        integers=[FAST, BEST],
    )


def _three(fast: str, best: str, theirs: str) -> str:
    return f"**{fast}**, **{best}** / {theirs}"


def _results(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["results"]


def _one(results: Sequence[Mapping[str, Any]], network: str, maker: str, **wanted: str) -> Mapping[str, Any]:
    """The int8 row of a maker."""
    wanted |= {"network": network, "maker": maker, "scheme": "int8"}
    return next(entry for entry in results if all(entry[key] == value for key, value in wanted.items()))


def _export_ratio(times: Mapping[str, Sequence[Mapping[str, float]]], target: str, maker: str) -> str:
    ours, theirs = ([run["wall_s"] for run in times[name]] for name in (f"squeeze-export {target} --int8", f"{target}: {maker}"))
    assert statistics.median(ours) > 0
    found = bootstrap_ratio(ours, theirs)
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


if __name__ == "__main__":
    main()
