"""A table file in place of a calibration: whether it fits the job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from squeeze_export.errors import BadInput
from squeeze_export.pipeline.calibration import Calibration, read_calibration
from squeeze_export.pipeline.network import Network
from squeeze_export.quant.mixed import check_keepable, keep_float


def given_table(
    table: Path, network: Network, *, scheme: str, weights: str | Path | None, layers: Sequence[str]
) -> tuple[Calibration, bool]:
    """The integers of a table, for a job that asks for a scheme.

    Args:
        table: the file.
        network: the job's.
        scheme: that the job asks for.
        weights: as the job names its checkpoint.
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
            f"the table `{table}` is of scheme `{quantized.scheme.name}`, not `{scheme}`",
            hint=f"--scheme {quantized.scheme.name}, or leave out --table",
        )
    same = quantized.checkpoint_sha256 == network.graph.checkpoint_sha256
    if not same and layers and weights is None:
        raise BadInput(
            f"a layer in float has its checkpoint's weights, which the table `{table}` was not made from",
            hint="name it with --weights",
        )
    if not same and weights is not None:
        raise BadInput(
            f"the table `{table}` was not made from `{network.source}`", hint="calibrate again, or name the right --weights"
        )
    if same and [node.name for node in quantized.nodes] != [node.name for node in network.graph.nodes]:
        raise BadInput(f"the table `{table}` is of a network with other layers", hint="--bypass as when it was calibrated")
    if same and quantized.preprocess != network.graph.preprocess:
        raise BadInput(f"the table `{table}` was made with other preprocessing than was asked for", hint="calibrate again")
    if same and network.graph.labels and network.graph.labels != quantized.labels:
        calibration = replace(calibration, quantized=replace(quantized, labels=network.graph.labels))
    if layers:
        check_keepable(network.graph, layers)
        calibration = replace(calibration, quantized=keep_float(network.graph, calibration.quantized, layers))
    return calibration, same
