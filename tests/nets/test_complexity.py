"""Table 1 of the paper, and the columns that it does not have."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from squeeze_export.core import Preprocess
from squeeze_export.errors import BadInput
from squeeze_export.graph.build import build_graph
from squeeze_export.nets.architecture import FAMILY, architecture, tensor_shapes
from squeeze_export.nets.complexity import table, total

V1_0 = FAMILY["squeezenet1_0"]

# arXiv:1602.07360, Table 1: layer, output side, depth, s1x1, e1x1, e3x3, parameters (before pruning).
TABLE_1 = [
    ("conv1", 111, 1, None, None, None, 14_208),
    ("pool1", 55, 0, None, None, None, 0),
    ("fire2", 55, 2, 16, 64, 64, 11_920),
    ("fire3", 55, 2, 16, 64, 64, 12_432),
    ("fire4", 55, 2, 32, 128, 128, 45_344),
    ("pool4", 27, 0, None, None, None, 0),
    ("fire5", 27, 2, 32, 128, 128, 49_440),
    ("fire6", 27, 2, 48, 192, 192, 104_880),
    ("fire7", 27, 2, 48, 192, 192, 111_024),
    ("fire8", 27, 2, 64, 256, 256, 188_992),
    ("pool8", 13, 0, None, None, None, 0),
    ("fire9", 13, 2, 64, 256, 256, 197_184),
    ("conv10", 13, 1, None, None, None, 513_000),
    ("avgpool10", 1, 0, None, None, None, 0),
]


def test_table_1() -> None:
    rows = table(V1_0, 227)
    assert [(r.name, r.output_px, r.depth, r.s1x1, r.e1x1, r.e3x3, r.parameter_count) for r in rows] == TABLE_1
    everything = total(rows)
    assert everything.parameter_count == 1_248_424
    assert f"{4 * everything.parameter_count / 2**20:.2f}" == "4.76"  # the paper's "4.8 MB"
    assert (everything.name, everything.depth, everything.channels) == ("total", 18, 1000)


def test_224_px_give_109_and_not_the_papers_111() -> None:
    assert table(V1_0, 224)[0].output_px == 109


def test_complex_bypass_counts_to_6_4_mb() -> None:
    rows = table(FAMILY["squeezenet1_0_complex_bypass"], 227)
    assert f"{4 * total(rows).parameter_count / 1e6:.1f}" == "6.4"
    by_name = {row.name: row for row in rows}
    assert by_name["fire2"].parameter_count == 11_920 + 96 * 128 + 128


def test_one_layer_by_hand() -> None:
    """fire2 at 227 px: 55x55 maps of 96, 16, 64 and 64 channels."""
    row = {row.name: row for row in table(V1_0, 227)}["fire2"]
    assert row.mac_count == 55 * 55 * (96 * 16 + 16 * 64 + 9 * 16 * 64)
    assert row.bytes_read == 4 * (55 * 55 * (96 + 16 + 16) + 11_920)
    assert row.bytes_written == 4 * 55 * 55 * (16 + 64 + 64)
    assert row.intensity == pytest.approx(row.mac_count / (row.bytes_read + row.bytes_written))


def test_int8_moves_less_but_its_biases_stay_wide() -> None:
    row = table(V1_0, 227, 1, 1)[0]
    assert row.bytes_read == 227 * 227 * 3 + 7 * 7 * 3 * 96 + 4 * 96
    assert row.bytes_written == 111 * 111 * 96


def test_bypasses_cost_bytes_and_convolutions() -> None:
    plain, simple, rich = (
        {row.name: row for row in table(FAMILY[name], 227)}
        for name in ("squeezenet1_0", "squeezenet1_0_simple_bypass", "squeezenet1_0_complex_bypass")
    )
    joined = 4 * 55 * 55 * 128
    assert simple["fire2"] == plain["fire2"]
    assert simple["fire3"].bytes_read - plain["fire3"].bytes_read == 2 * joined
    assert simple["fire3"].bytes_written - plain["fire3"].bytes_written == joined
    assert simple["fire3"].mac_count == plain["fire3"].mac_count
    assert rich["fire2"].mac_count - plain["fire2"].mac_count == 55 * 55 * 96 * 128
    assert rich["fire2"].bytes_written - plain["fire2"].bytes_written == 2 * joined


@cache
def zeros(name: str) -> dict[str, NDArray[np.float32]]:
    shapes = tensor_shapes(architecture(name, class_count=3))
    return {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}


@given(st.sampled_from(list(FAMILY)), st.integers(0, 1), st.integers(32, 400))
def test_sizes_and_parameters_agree_with_the_graph(name: str, conv10_pad: int, size_px: int) -> None:
    arch = replace(architecture(name, class_count=3), conv10_pad=conv10_pad)
    graph = build_graph(arch, zeros(name), Preprocess(size_px, size_px, "bilinear", "rgb", (0, 0, 0), (1, 1, 1)))
    rows = {row.name: row for row in table(arch, size_px)}
    for tensor, (height, width, channels) in graph.sizes.items():
        layer = tensor.split("/")[0] if not tensor.endswith(("squeeze1x1", "expand1x1", "expand3x3")) else ""
        if layer in rows:
            assert (height, width, channels) == (rows[layer].output_px, rows[layer].output_px, rows[layer].channels)
    macs = sum(math.prod(graph.sizes[conv.name][:2]) * conv.weight.size for conv in graph.convs)
    assert total(rows.values()).mac_count == macs
    assert total(rows.values()).parameter_count == sum(conv.weight.size + conv.bias.size for conv in graph.convs)


@pytest.mark.parametrize("size_px", [3, 7, 20])
def test_an_image_too_small_is_refused(size_px: int) -> None:
    with pytest.raises(BadInput, match=f"`{size_px}` px leaves nothing"):
        table(V1_0, size_px)


def markdown(name: str) -> str:
    """The table as docs/networks.md has it."""
    rows = table(FAMILY[name], 227)
    lines = []
    for row in (*rows, total(rows)):
        filters = ["" if width is None else str(width) for width in (row.s1x1, row.e1x1, row.e3x3)]
        cells = [row.name, f"{row.output_px}x{row.output_px}x{row.channels}", str(row.depth), *filters]
        cells += [f"{number:,}" for number in (row.parameter_count, row.mac_count, row.bytes_read, row.bytes_written)]
        lines.append(f"| {' | '.join(cells)} | {row.intensity:.1f} |")
    return "\n".join(lines)


def test_the_documentation_prints_what_the_code_counts() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
    assert markdown("squeezenet1_0") in text
    for name in FAMILY:
        count = total(table(FAMILY[name], 227)).parameter_count
        macs = total(table(FAMILY[name], 227)).mac_count
        assert f"| `{name}` | {count:,} | {4 * count / 1e6:.2f} | {4 * count / 2**20:.2f} | {macs:,} |" in text
