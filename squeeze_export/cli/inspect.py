"""`squeeze-export inspect`: the paper's Table 1 for any SqueezeNet."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from squeeze_export.cli.console import print_json, stdout_console
from squeeze_export.cli.options import Choice, Command, option
from squeeze_export.cli.options.network import NETWORK, chosen_network
from squeeze_export.cli.options.output import OUTPUT
from squeeze_export.errors import BadInput
from squeeze_export.graph.costs import node_costs
from squeeze_export.graph.costs import total as graph_total
from squeeze_export.graph.nodes import Graph
from squeeze_export.nets.architecture import FAMILY, architecture
from squeeze_export.nets.complexity import LayerCost, table, total

ARCHITECTURE = option(
    "--architecture", "family", type=Choice(list(FAMILY)), help="A member of the family, instead of a checkpoint."
)


@click.command("inspect", cls=Command, params=[ARCHITECTURE, *NETWORK, *OUTPUT])
def command(family: str | None, **values: Any) -> None:
    """Print layers, parameters, MACs, bytes moved and arithmetic intensity (the paper's Table 1, and more).

    Of an ONNX file that is no SqueezeNet, and of images that are not square, every convolution, pool and join has a row.

    \b
    squeeze-export inspect --architecture squeezenet1_0 --crop 227
    squeeze-export inspect --weights squeezenet1_1.pth
    """
    if family is not None:
        arch, input_px = architecture(family), values["crop_px"] or 227
    else:
        network = chosen_network(values)
        if network.architecture is None or network.graph.preprocess.width_px is not None:
            _inspect_graph(network.graph, values["as_json"])
            return
        arch, input_px = network.architecture, network.graph.preprocess.crop_px
    if isinstance(input_px, tuple):
        raise BadInput(f"the table is of square images, not of `{input_px[0]} x {input_px[1]}` px", hint="--crop PX")
    rows = table(arch, input_px)
    summed = total(rows)
    if values["as_json"]:
        print_json(
            {
                "architecture": arch.to_json(),
                "input_px": input_px,
                "layers": [asdict(row) | {"intensity": row.intensity} for row in rows],
                "total": asdict(summed) | {"intensity": summed.intensity},
            }
        )
        return
    _print(arch.name, input_px, rows, summed)


def _inspect_graph(graph: Graph, as_json: bool) -> None:
    rows = node_costs(graph)
    summed, size = graph_total(rows), graph.preprocess.input_size
    if as_json:
        layers = [asdict(row) | {"intensity": row.intensity} for row in rows]
        whole = asdict(summed) | {"intensity": summed.intensity}
        print_json({"architecture": None, "input_px": list(size[:2]), "layers": layers, "total": whole})
        return
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for heading in ("layer", "kind", "output", "kernel", *_HEADINGS[-5:]):
        shown.add_column(heading, justify="left" if heading in ("layer", "kind") else "right", no_wrap=heading != "layer")
    for row in (*rows, summed):
        shown.add_row(
            row.name,
            row.kind,
            "" if row is summed else "x".join(map(str, row.output)),
            "x".join(map(str, row.kernel)) if row.kernel else "",
            *_numbers(row.parameter_count, row.mac_count, row.bytes_read, row.bytes_written, row.intensity),
            end_section=row is rows[-1],
        )
    console = stdout_console()
    console.print(f"{graph.name} at {size[0]} x {size[1]} px, {size[2]} channels, float32")
    console.print(shown)
    console.print(_size(summed.parameter_count))


def _numbers(parameter_count: int, mac_count: int, bytes_read: int, bytes_written: int, intensity: float) -> tuple[str, ...]:
    return (
        f"{parameter_count:,}" if parameter_count else "",
        f"{mac_count / 1e6:.1f}" if mac_count else "",
        f"{bytes_read / 1e6:.2f}",
        f"{bytes_written / 1e6:.2f}",
        f"{intensity:.1f}",
    )


def _size(parameter_count: int) -> str:
    size_bytes = parameter_count * 4
    return f"{parameter_count:,} parameters, {size_bytes / 1e6:.2f} MB ({size_bytes / 2**20:.2f} MiB) in float32"


def _print(name: str, input_px: int, rows: tuple[LayerCost, ...], summed: LayerCost) -> None:
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)  # 78 columns: it fits every terminal
    for heading in _HEADINGS:
        shown.add_column(heading, justify="left" if heading == "layer" else "right", no_wrap=True)
    for row in (*rows, summed):
        last = row is summed
        shown.add_row(
            "total" if last else row.name,
            "" if last else f"{row.output_px}x{row.output_px}x{row.channels}",
            *("" if last or not value else str(value) for value in (row.depth, row.s1x1, row.e1x1, row.e3x3)),
            *_numbers(row.parameter_count, row.mac_count, row.bytes_read, row.bytes_written, row.intensity),
            end_section=row is rows[-1],
        )
    console = stdout_console()
    console.print(f"{name} at {input_px} px, float32")
    console.print(shown)
    console.print(_size(summed.parameter_count))


_HEADINGS = (
    *("layer", "output", "depth", "s1x1", "e1x1", "e3x3", "para-\nmeters"),
    *("MACs\n(M)", "read\n(MB)", "written\n(MB)", "MACs\n/byte"),
)
