"""What a file does not tell, and what is assumed in its place: each value once, and none that the file or the user told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from squeeze_export.core import CAFFE, TORCHVISION, Assumption
from squeeze_export.errors import BadInput
from squeeze_export.nets.architecture import Architecture, Fire, StructureChoice, architecture, tensor_shapes
from squeeze_export.nets.assumptions import PIXELS, pixel_assumptions
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.nets.safetensors_file import write_safetensors

SMALL = Architecture("squeezenet_custom", 4, 3, (Fire(2, 3, 5), Fire(2, 4, 4)), (), 5)
ALL_TOLD = {"conv1_stride": 1, "conv1_pad": 1, "final_relu": False, "ceil_pools": False, "conv10_pad": 1, "bypass": "simple"}
BYPASSED = replace(SMALL, fires=(Fire(2, 3, 5), Fire(2, 4, 4, "simple")))
CHANGED = replace(BYPASSED, conv1_stride=1, conv1_pad=1, final_relu=False, ceil_pools=False, conv10_pad=1)


def zeros(arch: Architecture) -> dict[str, Any]:
    return {key: np.zeros(shape, np.float32) for key, shape in tensor_shapes(arch).items()}


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Tensors alone, as in a state dict."""
    (tmp_path / "net.safetensors").write_bytes(save(zeros(SMALL)))
    return tmp_path / "net.safetensors"


def test_tensors_alone_leave_six_things_of_the_structure_untold(bare: Path) -> None:
    found = read_checkpoint(bare)
    values = ["conv1 3x3/2", "conv1 pad 0", "ReLU after conv10", "ceil pools", "conv10 pad 0", "no bypass"]
    assert [assumption.value for assumption in found.assumptions] == values
    assert {assumption.why for assumption in found.assumptions} == {"torchvision's SqueezeNet"}
    assert found.untold == dict.fromkeys(PIXELS, "torchvision's preprocessing")


@pytest.mark.parametrize("name", list(ALL_TOLD))
def test_what_the_user_tells_is_not_assumed(name: str, bare: Path) -> None:
    found = read_checkpoint(bare, structure=StructureChoice(**{name: ALL_TOLD[name]}))  # type: ignore[arg-type]
    assert len(found.assumptions) == 5
    assert getattr(found.architecture, name) == ALL_TOLD[name]


def test_with_everything_told_nothing_is_assumed(bare: Path) -> None:
    found = read_checkpoint(bare, structure=StructureChoice(**ALL_TOLD))  # type: ignore[arg-type]
    assert (found.architecture, found.assumptions) == (CHANGED, ())


def test_the_family_s_names_are_those_of_the_tensors(tmp_path: Path) -> None:
    """So the same checkpoint gives files of the same name, whatever is told about it."""
    path = tmp_path / "net.safetensors"
    path.write_bytes(save(zeros(architecture("squeezenet1_1", class_count=3))))
    plain, padded = read_checkpoint(path), read_checkpoint(path, structure=StructureChoice(conv1_pad=1, final_relu=False))
    assert (plain.architecture.name, padded.architecture.name) == ("squeezenet1_1", "squeezenet1_1")
    assert {assumption.why for assumption in plain.assumptions} == {"torchvision's SqueezeNet 1.1"}


@pytest.mark.parametrize(
    ("fires", "assumed"),
    [
        ((Fire(2, 3, 5, "complex"), Fire(2, 4, 4)), False),  # the tensors tell
        ((Fire(2, 3, 5), Fire(2, 6, 6)), False),  # nothing to go around
        ((Fire(2, 3, 5), Fire(2, 4, 4)), True),
    ],
)
def test_a_bypass_is_untold_only_where_there_could_be_one(fires: tuple[Fire, ...], assumed: bool, tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").write_bytes(save(zeros(replace(SMALL, fires=fires))))
    found = read_checkpoint(tmp_path / "net.safetensors").assumptions
    assert ("no bypass" in [assumption.value for assumption in found]) == assumed


def test_a_file_that_tells_everything(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    write_safetensors(path, CHANGED, zeros(CHANGED), TORCHVISION)
    found = read_checkpoint(path)
    assert (found.architecture, found.assumptions, found.untold) == (CHANGED, (), {})
    assert read_checkpoint(path, structure=StructureChoice(**ALL_TOLD)).architecture == CHANGED  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="conv1 pad `0` was asked for, but the file says `1`"):
        read_checkpoint(path, structure=StructureChoice(conv1_pad=0))
    with pytest.raises(BadInput, match="ceil pools `yes` was asked for, but the file says `no`"):
        read_checkpoint(path, structure=StructureChoice(ceil_pools=True))


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (StructureChoice(conv1_stride=9), "moves conv1 by `9` px; 1 to 8"),
        (StructureChoice(conv1_pad=3), "pads conv1 by `3`; with its kernel of 3 px 0 to 2"),
        (StructureChoice(conv10_pad=2), "pads conv10 by `2`"),
    ],
)
def test_values_out_of_range(structure: StructureChoice, message: str, bare: Path) -> None:
    with pytest.raises(BadInput, match=message):
        read_checkpoint(bare, structure=structure)


def test_what_is_assumed_of_the_pixels() -> None:
    found = pixel_assumptions(TORCHVISION, PIXELS, "torchvision's preprocessing")
    assert [assumption.value for assumption in found] == [
        "pixels RGB",
        "mean 123.675,116.28,103.53",
        "std 58.395,57.12,57.375",
        "256 -> 224",
        "bilinear",
    ]
    assert pixel_assumptions(CAFFE, ("resize_px",), "why") == (Assumption("input size", "short side 256", "why"),)
    assert pixel_assumptions(CAFFE, ("crop_px",), "why") == (Assumption("input size", "crop 227", "why"),)
    assert pixel_assumptions(CAFFE, (), "why") == ()


def test_the_authors_file_is_of_one_network(assets: Path) -> None:
    found = read_checkpoint(assets / "weights" / "squeezenet1_0_deep_compression.net")
    assert {assumption.why for assumption in found.assumptions} == {"its authors' SqueezeNet 1.0"}
    assert "conv10 pad 1" in [assumption.value for assumption in found.assumptions]
    told = read_checkpoint(found.path, structure=StructureChoice(conv10_pad=0))
    assert (told.architecture.conv10_pad, len(told.assumptions)) == (0, len(found.assumptions) - 1)


@pytest.mark.parametrize("name", ["conv1_stride", "conv1_pad", "ceil_pools", "final_relu", "in_channels"])
def test_files_of_earlier_versions_have_torchvision_s_values(name: str) -> None:
    from squeeze_export.nets.architecture import architecture_from_json

    old = SMALL.to_json()
    del old[name]
    assert architecture_from_json(old) == SMALL
    with pytest.raises(BadInput, match="cannot be read"):
        architecture_from_json({**old, name: None})


def test_a_grey_network_is_told_by_its_tensors(tmp_path: Path) -> None:
    """No mean is usual enough for grey images to go unsaid."""
    grey = replace(SMALL, in_channels=1)
    (tmp_path / "net.safetensors").write_bytes(save(zeros(grey)))
    found = read_checkpoint(tmp_path / "net.safetensors")
    assert found.architecture == grey
    assert (found.preprocess.channel_order, found.preprocess.mean, found.preprocess.std) == ("gray", (127.5,), (127.5,))
    assert set(found.untold) == set(PIXELS) - {"channel_order"}
    assert found.untold["mean"] == "usual for grey images, -1 to 1"
