"""What each step of the recipe `best` buys, and what more of it would, on photographs that calibration never saw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.contestants import NETWORKS
from benchmarks.integers import BEST, FAST
from benchmarks.recipe_ablation import parallel, patched
from benchmarks.recording import assets, write
from squeeze_export.core import ByteArray
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import INT8, QuantizedGraph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.folders import open_calibration
from squeeze_export.images.stream import ImageStream, usable_cores
from squeeze_export.measure.accuracy import compare
from squeeze_export.measure.statistics import paired_difference
from squeeze_export.pipeline import open_network
from squeeze_export.pipeline.calibration import fastest_run
from squeeze_export.quant import distill, recipes
from squeeze_export.quant.material import Material
from squeeze_export.report.wording import decibel, percent, percent_range


@dataclass(frozen=True)
class Variant:
    """One way to distill.

    Attributes:
        name: of its row.
        changes: modules' values, changed while it runs.
        refitted: whether it starts from the refit, or from `fast`.
        seed: of the distillation.
    """

    name: str
    changes: tuple[tuple[Any, str, Any], ...] = ()
    refitted: bool = True
    seed: int = 0


VARIANTS = (
    Variant("`best`: the refit, then 100 updates of distillation"),
    Variant("the same with another seed of the distillation", seed=1),
    Variant("distillation after `fast`, without the refit", refitted=False),
    Variant("ranges alone distilled", ((distill, "SHIFT_RATE", 0.0),)),
    Variant("biases alone distilled", ((distill, "SCALE_RATE", 0.0),)),
    Variant("400 updates", ((distill, "UPDATES", 400),)),
)


def _tables(graph: Graph, pixels: ByteArray) -> Iterator[tuple[str, QuantizedGraph]]:
    """Name and table, one after the other; the refit is made once."""
    run, _ = fastest_run(graph)
    cores = usable_cores()
    fast = recipes.quantize(graph, pixels, run, INT8, threads=cores)
    yield "`fast`", fast
    with patched(((recipes, "distill", lambda start, _: start),)):
        refitted = recipes.quantize(graph, pixels, run, INT8, recipe="best", threads=cores)
    yield "the refit alone", refitted
    for variant in VARIANTS:
        start = refitted if variant.refitted else fast
        with patched(variant.changes):
            material = Material(graph, {}, pixels, (1,) * len(pixels), variant.seed, cores, INT8)
            made = distill.distill(start, material)
        yield variant.name, made


def main() -> None:
    """Runs the benchmark and writes its results."""
    rows: dict[str, list[str]] = {}
    raw: list[dict[str, Any]] = []
    for network_name, file in NETWORKS.items():
        graph = open_network(assets() / "weights" / file).graph
        calibration, evaluation = (
            ImageStream(open_calibration(assets() / "images" / part), graph.preprocess).load()[0].pixels
            for part in ("calib", "eval")
        )
        expected = parallel(FloatRunner(graph), evaluation)
        same: dict[str, Any] = {}
        for variant, table in _tables(graph, calibration):
            logits = parallel(IntegerRunner(table), evaluation)
            found = compare(expected, logits)
            same[variant] = logits.argmax(axis=1) == expected.argmax(axis=1)
            first = same["`fast`"]
            won, lost = int((same[variant] & ~first).sum()), int((first & ~same[variant]).sum())
            share = paired_difference(lost, won, len(first))
            pair = "" if variant == "`fast`" else f"{100 * share.value:+.2f} [{100 * share.low:+.1f}, {100 * share.high:+.1f}]"
            agreement = f"{percent(found.top1_agreement.value)} {percent_range(found.top1_agreement)}"
            rows.setdefault(variant, []).extend([decibel(found.sqnr_db), agreement, pair])
            raw.append(
                {"network": network_name, "variant": variant, "sqnr_db": found.sqnr_db, "agreement": found.top1_agreement.value}
            )
            print(raw[-1], flush=True)
    write(
        "best_ablation",
        "What each step of the recipe `best` gains",
        [
            "The exact integer run against fp32 on 472 photographs; calibration on 128 others. Brackets hold 95% "
            "intervals. The last column of each network is the agreement minus that of `fast`, in percentage points, "
            "paired."
        ],
        ("", *(f"{network} {what}" for network in NETWORKS for what in ("SQNR", "agreement", "against `fast`"))),
        [(variant, *figures) for variant, figures in rows.items()],
        raw,
        integers=[FAST, BEST],
    )


if __name__ == "__main__":
    main()
