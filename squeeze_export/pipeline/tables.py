"""Table files: whether one belongs to this network, and which exported files were written from it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from squeeze_export.core import Artifact
from squeeze_export.errors import BadInput
from squeeze_export.graph.nodes import QuantizedNode
from squeeze_export.pipeline.calibration import Calibration, read_calibration
from squeeze_export.pipeline.network import Network
from squeeze_export.quant.mixed import check_keepable, keep_float


def check_table(
    calibration: Calibration, table: Path, network: Network, *, hint: str = "name its checkpoint with --weights"
) -> None:
    """Refuses a table that does not belong to this network.

    Args:
        calibration: as read from it.
        table: the file.
        network: the checkpoint.
        hint: for a table of another checkpoint.

    Raises:
        BadInput: it is of another checkpoint, structure or preprocessing.
    """
    quantized, graph = calibration.quantized, network.graph
    if quantized.checkpoint_sha256 != graph.checkpoint_sha256:
        raise BadInput(f"the table `{table}` was not made from `{network.source}`", hint=hint)
    if [_form(node) for node in quantized.nodes] != [_form(node) for node in graph.nodes]:
        hint = "--conv1-stride --conv1-pad --pools --no-final-relu --conv10-pad --bypass as when it was calibrated"
        raise BadInput(f"the table `{table}` is of a network with other layers", hint=hint)
    if quantized.preprocess != graph.preprocess:
        raise BadInput(f"the table `{table}` was made with other preprocessing than was asked for", hint="calibrate again")


def is_of_another(table: Path, network: Network) -> bool:
    """Whether a table of another checkpoint stands there."""
    with suppress(BadInput):
        return table.exists() and read_calibration(table).quantized.checkpoint_sha256 != network.graph.checkpoint_sha256
    return False


def replaced(path: Path) -> str:
    """The warning that a file of another checkpoint stood there."""
    return f"`{path}` of another checkpoint was replaced: --out DIR keeps networks apart"


def _form(node: QuantizedNode) -> tuple[object, ...]:
    """A node without its numbers: its name, and how it moves over its input."""
    return (node.name, *(getattr(node, field, None) for field in ("kernel", "strides", "pads", "relu")))


def table_behind(artifacts: Sequence[Artifact], network: Network, table: Path) -> Calibration:
    """Reads the table that exported files were written from.

    Args:
        artifacts: at least one was written from the table.
        network: the one they were made from.
        table: the table file.

    Raises:
        BadInput: no table; none of the files was written from it; it is not of this network.
    """
    calibration = read_calibration(table)
    if not any(is_written_from(artifact, calibration, network) for artifact in artifacts):
        raise BadInput(f"none of the files was written from the table `{table}`", hint="leave out --table, or name theirs")
    check_table(calibration, table, network)
    return calibration


def is_written_from(artifact: Artifact, calibration: Calibration, network: Network) -> bool:
    """Whether a file holds the integers of a table."""
    # Labels are part of a table, and an export may replace them: the integers are the same.
    quantized, told = calibration.quantized, artifact.provenance.get("table_sha256")
    return any(told == replace(quantized, labels=labels).sha256 for labels in (quantized.labels, network.graph.labels, ()))


def given_table(
    table: Path, network: Network, *, scheme: str, weights: str | Path | None, layers: Sequence[str]
) -> tuple[Calibration, bool]:
    """The integers of a table, for a job that asks for a scheme.

    Args:
        table: the file.
        network: the job's.
        scheme: that the job asks for.
        weights: the job's checkpoint as the user named it.
        layers: to put back to float.

    Returns:
        The calibration, and whether `network` is the checkpoint that it came from.

    Raises:
        BadInput: it is of another scheme, checkpoint, structure or preprocessing than the job's.
    """
    calibration = read_calibration(table)
    quantized = calibration.quantized
    if quantized.scheme.name != scheme:
        raise BadInput(
            f"the table `{table}` has the scheme `{quantized.scheme.name}`, not `{scheme}`",
            hint=f"--scheme {quantized.scheme.name}, or leave out --table",
        )
    same = quantized.checkpoint_sha256 == network.graph.checkpoint_sha256
    if not same and layers and weights is None:
        raise BadInput(
            f"a layer in float has its checkpoint's weights, which the table `{table}` was not made from",
            hint="name it with --weights",
        )
    if same or weights is not None:
        check_table(calibration, table, network, hint="calibrate again, or name the right --weights")
    if same and network.graph.labels and network.graph.labels != quantized.labels:
        calibration = replace(calibration, quantized=replace(quantized, labels=network.graph.labels))
    if layers:
        check_keepable(network.graph, layers)
        calibration = replace(calibration, quantized=keep_float(network.graph, calibration.quantized, layers))
    return calibration, same
