"""The files of a job: written here for one target, in processes of their own for several, by the vendors' tools where asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from squeeze_export.core import Artifact, Audit, EmitOptions, Progress
from squeeze_export.errors import SqueezeExportError
from squeeze_export.graph.quantized import FP32, Scheme
from squeeze_export.pipeline.calibration import Calibration
from squeeze_export.pipeline.export import export_checked
from squeeze_export.pipeline.network import Network
from squeeze_export.pipeline.processes import Order, export_apart
from squeeze_export.pipeline.sessions import kept
from squeeze_export.pipeline.vendor import Vendor, export_vendor


@dataclass(frozen=True)
class Exported:
    """What was written for a target, or why nothing was.

    Attributes:
        target: a key of `registry.TARGETS`.
        files: each with its audit: the fp32 version, in a folder that will be removed, where there is one, then what was asked for.
        failure: why there are none.
    """

    target: str
    files: tuple[tuple[Artifact, Audit], ...] = ()
    failure: SqueezeExportError | None = None


@dataclass(frozen=True)
class ExportPlan:
    """What is to be written for every target.

    Attributes:
        network: the checkpoint.
        integers: its calibration, or what the vendors' tools are given; None for the schemes without integers.
        scheme: how numbers are carried.
        name: first part of the file names.
        out: where the files go.
        options: the outer form.
        baseline: a folder for the fp32 versions; None where there are to be none.
    """

    network: Network
    integers: Calibration | Vendor | None
    scheme: Scheme
    name: str
    out: Path
    options: EmitOptions
    baseline: Path | None


def export_all(targets: Sequence[str], plan: ExportPlan, progress: Progress) -> list[Exported]:
    """Writes everything. Of several targets, one that fails is there with its failure; a single one raises.

    Raises:
        SqueezeExportError: what stopped a single target.
    """
    if len(targets) == 1 or isinstance(plan.integers, Vendor):
        return [_one(target, plan, alone=len(targets) == 1) for target in targets]
    made = export_apart(targets, _orders(plan), name=plan.name, options=plan.options, progress=progress)
    return [
        Exported(target, failure=found) if isinstance(found, SqueezeExportError) else Exported(target, tuple(reversed(found)))
        for target, found in made.items()
    ]


def _orders(plan: ExportPlan) -> list[Order]:
    graph = plan.network.graph
    orders = [Order(plan.integers.quantized if isinstance(plan.integers, Calibration) else graph, plan.scheme, plan.out)]
    if plan.baseline is not None and plan.scheme != FP32:
        orders.append(Order(graph, FP32, plan.baseline))
    return orders


def _one(target: str, plan: ExportPlan, *, alone: bool) -> Exported:
    try:
        product, *baseline = _orders(plan)
        # The product last: what fails before it leaves none behind.
        plain = [export_checked(o.network, target, o.scheme, o.out, name=plan.name, options=plan.options) for o in baseline]
        if isinstance(plan.integers, Vendor):
            made = export_vendor(plan.integers, plan.network, target, plan.scheme, plan.out, name=plan.name)
        else:
            made = export_checked(product.network, target, product.scheme, product.out, name=plan.name, options=plan.options)
        return Exported(target, (*plain, made))
    except SqueezeExportError as err:
        return Exported(target, failure=kept(err, alone=alone))
