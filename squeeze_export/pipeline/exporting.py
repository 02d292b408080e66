"""The files of a job: written here for one target or by the vendors' tools, in a process for each of several targets.

Several processes are faster where there is more than one core, because the toolchains' imports take longer than the writing. And
whatever a toolchain does to its process, even a crash in native code, the other targets' files are written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from squeeze_export.core import Artifact, EmitOptions, Progress
from squeeze_export.errors import BadInput, NotInstalled, SqueezeExportError
from squeeze_export.graph.golden import Golden, golden
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import QuantizedGraph, Scheme, scheme_named
from squeeze_export.graph.table import graph_bytes, read_graph, read_table, table_bytes
from squeeze_export.measure.host import package_version
from squeeze_export.pipeline.export import export_checked, read_artifact
from squeeze_export.pipeline.sessions import kept
from squeeze_export.pipeline.vendor import Vendor, export_vendor
from squeeze_export.registry import TARGETS
from squeeze_export.targets import target_named
from squeeze_export.workers.worker import Worker


@dataclass(frozen=True)
class Order:
    """One file to write.

    Attributes:
        network: a `QuantizedGraph` for an integer scheme, else a `Graph`.
        scheme: how numbers are carried.
        out: an existing folder.
    """

    network: Graph | QuantizedGraph
    scheme: Scheme
    out: Path


@dataclass(frozen=True)
class Exported:
    """What was written for a target, or why nothing was.

    Attributes:
        target: a key of `registry.TARGETS`.
        files: an artifact for every order, the last one first: the fp32 version, if there is one, before what was asked for.
        failure: why there are none.
    """

    target: str
    files: tuple[Artifact, ...] = ()
    failure: SqueezeExportError | None = None


def check_installed(targets: Sequence[str]) -> None:
    """Refuses targets of which none can be written here. Where one can, `export_all` gives the others with their failure.

    Raises:
        NotInstalled: the packages of all targets are missing; the hint says what to install.
    """
    absent = {target: names for target in targets if (names := _absent_packages(target))}
    if len(absent) < len(targets):
        return
    packages = [name for names in absent.values() for name in names]
    extra = targets[0] if len(targets) == 1 else "all"
    hint = f"pip install 'squeeze-export[{extra}]'" if set(targets) <= set(TARGETS) else f"pip install {' '.join(packages)}"
    raise NotInstalled(f"not installed: `{'`, `'.join(packages)}`, for {', '.join(targets)} files", hint=hint)


def _absent_packages(target: str) -> list[str]:
    """The distributions that write a target's files, and are not here, also not as a module of another one (openvino-nightly)."""
    packages = target_named(target).PACKAGES
    return [name for name in packages if package_version(name) is None and find_spec(name.replace("-", "_")) is None]


def others_files(paths: Sequence[Path], checkpoint_sha256: str) -> tuple[str, ...]:
    """Names of those files that exist and whose sidecars tell that they were made from another checkpoint."""
    found = []
    for path in paths:
        with suppress(BadInput):
            told = read_artifact(path).provenance.get("checkpoint_sha256")
            found += [path.name] if told != checkpoint_sha256 else []
    return tuple(found)


def export_all(
    targets: Sequence[str],
    orders: Sequence[Order],
    *,
    name: str,
    options: EmitOptions,
    vendor: Vendor | None = None,
    origin: Mapping[str, Any],
    progress: Progress,
) -> list[Exported]:
    """Writes everything. Of several targets, one that fails is there with its failure; a single one raises.

    Args:
        targets: keys of `registry.TARGETS`, which carry the schemes in this outer form.
        orders: the files to write for each: what was asked for, then its fp32 version if there is to be one.
        name: first part of the file names.
        options: the outer form.
        vendor: what the vendors' tools are given, if they make the integers of what was asked for.
        origin: of `Network.origin`, into the sidecars.
        progress: told of finished targets.

    Raises:
        SqueezeExportError: what stopped a single target.
    """
    if len(targets) > 1 and vendor is None:
        return export_apart(targets, orders, name=name, options=options, origin=origin, progress=progress)

    def written(target: str, order: Order) -> Artifact:
        if vendor is not None and order is orders[0]:
            return export_vendor(vendor, order.network, target, order.out, name=name, origin=origin)
        return export_checked(order.network, target, order.scheme, order.out, name=name, options=options, origin=origin)

    def one(target: str) -> Exported:
        try:  # the product last: what fails before it leaves none behind
            return Exported(target, tuple(written(target, order) for order in reversed(orders)))
        except SqueezeExportError as err:
            return Exported(target, failure=kept(err, alone=len(targets) == 1))

    found: list[Exported] = []
    for target in targets:
        progress("exporting", len(found), len(targets))
        found.append(one(target))
    progress("exporting", len(found), len(targets))
    return found


def export_apart(
    targets: Sequence[str],
    orders: Sequence[Order],
    *,
    name: str,
    options: EmitOptions,
    origin: Mapping[str, Any],
    progress: Progress,
) -> list[Exported]:
    """`export_all` in processes that run side by side, one for each target."""
    found = []
    with tempfile.TemporaryDirectory(prefix="squeeze-export-") as folder, ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for target in targets:
            # In the user's folder, to which paths and messages are relative.
            workers[target] = stack.enter_context(Worker(__name__, tool=f"the {target} toolchain", cwd=Path()))
        # While they start, what all are given is made.
        request = {"name": name, "options": asdict(options), "origin": dict(origin), "orders": _handed_over(orders, Path(folder))}
        for target, worker in workers.items():
            worker.send("write_files", {**request, "target": target})
        for done, (target, worker) in enumerate(workers.items()):
            progress("exporting", done, len(targets))
            try:
                answer, _ = worker.receive()
                found.append(Exported(target, tuple(read_artifact(Path(path)) for path in answer["paths"])))
            except SqueezeExportError as err:
                found.append(Exported(target, failure=err))
        progress("exporting", len(targets), len(targets))
    return found


def _handed_over(orders: Sequence[Order], folder: Path) -> list[dict[str, Any]]:
    listed = []
    for index, order in enumerate(orders):
        network, path = order.network, folder / f"{index}.network"
        path.write_bytes(table_bytes(network) if isinstance(network, QuantizedGraph) else graph_bytes(network))
        told = {"network": str(path), "scheme": order.scheme.name, "out": str(order.out)}
        listed.append({**told, "answers": asdict(golden(network, order.scheme))})
    return listed


def write_files(values: Mapping[str, Any], arrays: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The other side: writes the files of one target, and gives their paths."""
    options = EmitOptions(**values["options"])
    paths = []
    for order in reversed(values["orders"]):  # the product last: what fails before it leaves none behind
        scheme = scheme_named(order["scheme"])
        network = (read_table if scheme.integer else read_graph)(Path(order["network"]))
        form = {"name": values["name"], "options": options, "origin": values["origin"], "answers": Golden(**order["answers"])}
        artifact = export_checked(network, values["target"], scheme, Path(order["out"]), **form)
        paths.append(str(artifact.path))
    return {"paths": paths}, {}
