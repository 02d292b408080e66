"""The files of a job: written here for one target, in processes of their own for several, by the vendors' tools where asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from squeeze_export.core import Artifact, EmitOptions, Progress
from squeeze_export.errors import SqueezeExportError
from squeeze_export.pipeline.export import export_checked
from squeeze_export.pipeline.processes import Order, export_apart
from squeeze_export.pipeline.sessions import kept
from squeeze_export.pipeline.vendor import Vendor, export_vendor


@dataclass(frozen=True)
class Exported:
    """What was written for a target, or why nothing was.

    Attributes:
        target: a key of `registry.TARGETS`.
        files: the fp32 version, in a folder that will be removed, where there is one, then what was asked for.
        failure: why there are none.
    """

    target: str
    files: tuple[Artifact, ...] = ()
    failure: SqueezeExportError | None = None


def export_all(
    targets: Sequence[str],
    orders: Sequence[Order],
    *,
    name: str,
    options: EmitOptions,
    vendor: Vendor | None = None,
    progress: Progress,
) -> list[Exported]:
    """Writes everything. Of several targets, one that fails is there with its failure; a single one raises.

    Args:
        targets: keys of `registry.TARGETS`.
        orders: the files to write for each: what was asked for, then its fp32 version where there is to be one.
        name: first part of the file names.
        options: the outer form.
        vendor: what the vendors' tools are given, where they make the integers of what was asked for.
        progress: told of finished targets.

    Raises:
        SqueezeExportError: what stopped a single target.
    """
    if len(targets) > 1 and vendor is None:
        made = export_apart(targets, orders, name=name, options=options, progress=progress)
        return [
            Exported(target, failure=found) if isinstance(found, SqueezeExportError) else Exported(target, tuple(reversed(found)))
            for target, found in made.items()
        ]

    def written(target: str, order: Order) -> Artifact:
        if vendor is not None and order is orders[0]:
            return export_vendor(vendor, order, target, name=name)
        return export_checked(order.network, target, order.scheme, order.out, name=name, options=options)

    def one(target: str) -> Exported:
        try:  # The product last: what fails before it leaves none behind.
            return Exported(target, tuple(written(target, order) for order in reversed(orders)))
        except SqueezeExportError as err:
            return Exported(target, failure=kept(err, alone=len(targets) == 1))

    return [one(target) for target in targets]
