"""Opening the network that a job is about."""

import dataclasses
import hashlib

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from squeeze_export import demo
from squeeze_export.core import CAFFE, TORCHVISION
from squeeze_export.errors import BadInput
from squeeze_export.pipeline import PreprocessChoice, StructureChoice, network, open_network


def test_no_choice_keeps_what_came_with_the_checkpoint():
    for preprocess in (TORCHVISION, CAFFE):
        assert PreprocessChoice().applied_to(preprocess) == preprocess


def test_every_choice_replaces_its_field():
    chosen = PreprocessChoice(300, 280, "bicubic", "bgr", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)).applied_to(TORCHVISION)
    assert dataclasses.astuple(chosen)[:6] == (300, 280, "bicubic", "bgr", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert PreprocessChoice(resize_mode="stretch", resize_px=300).applied_to(TORCHVISION).resize_mode == "stretch"


@pytest.mark.parametrize(("crop_px", "resize_px"), [(112, 128), (224, 256), (448, 512), (97, 111)])
def test_a_crop_alone_keeps_the_ratio_to_the_resize(crop_px, resize_px):
    chosen = PreprocessChoice(crop_px=crop_px).applied_to(TORCHVISION)
    assert (chosen.crop_px, chosen.resize_px) == (crop_px, resize_px)


@pytest.mark.parametrize(
    ("crop", "mode", "expected"),
    [
        ((224, 224), None, (256, 224, None)),
        ((112, 224), None, (256, 112, 224)),
        ((448, 224), None, (512, 448, 224)),
        ((112, 224), "stretch", (112, 112, 224)),
        (None, "stretch", (224, 224, None)),
    ],
)
def test_a_crop_of_any_shape_is_filled(crop, mode, expected):
    chosen = PreprocessChoice(crop_px=crop, resize_mode=mode).applied_to(TORCHVISION)
    assert (chosen.resize_px, chosen.crop_px, chosen.width_px) == expected


def test_a_square_crop_replaces_an_oblong_one():
    oblong = dataclasses.replace(TORCHVISION, width_px=112)
    assert PreprocessChoice(crop_px=64).applied_to(oblong) == PreprocessChoice(crop_px=64).applied_to(TORCHVISION)


@pytest.mark.parametrize("mean", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.5, 0.5, 120.0)])
def test_means_that_are_pixels(mean):
    assert PreprocessChoice(mean=mean).applied_to(TORCHVISION).mean == mean


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (PreprocessChoice(mean=(0.5, 0.5, 0.5)), "--mean `0.5,0.5,0.5` looks like the 0 to 1 scale"),
        (PreprocessChoice(std=(0.2, 0.2, 0.2)), "--std `0.2,0.2,0.2` looks like the 0 to 1 scale"),
        (PreprocessChoice(std=(0.0, 0.0, 0.0)), "--std `0,0,0` is no std of pixels"),
        (PreprocessChoice(mean=(float("inf"), 1.0, 1.0)), "--mean `inf,1,1` is no mean of pixels"),
        (PreprocessChoice(crop_px=300, resize_px=256), "less than the crop"),
        (PreprocessChoice(mean=(1.0,)), "`1` numbers for --mean; the network's images have `3` channels"),
        (PreprocessChoice(channel_order="gray"), "`gray` does not fit a network of rgb images"),
    ],
)
def test_refused_choices(choice, message):
    with pytest.raises(BadInput, match=message):
        choice.applied_to(TORCHVISION)


def test_a_checkpoint_file(tiny):
    network = open_network(tiny / "tiny.safetensors")
    digest = hashlib.sha256((tiny / "tiny.safetensors").read_bytes()).hexdigest()
    assert (network.name, network.source, network.is_demo) == ("squeezenet_custom", "tiny.safetensors", False)
    assert network.facts() == {
        "name": "squeezenet_custom",
        "source": "tiny.safetensors",
        "class_count": 5,
        "input_px": 32,
        "parameter_count": sum(value.size for value in load_file(tiny / "tiny.safetensors").values()),
        "checkpoint_sha256": digest,
    }


def test_a_path_may_be_text(tiny):
    assert open_network(str(tiny / "tiny.safetensors")).source == "tiny.safetensors"


def test_nothing_named_is_the_demo_network():
    network = open_network()
    assert (network.name, network.source, network.is_demo) == (demo.NAME, "embedded demo network", True)
    assert network.graph.labels == demo.labels()
    assert network.graph.preprocess == demo.PREPROCESS


def test_the_demo_networks_own_file_is_a_checkpoint_like_any_other():
    assert not open_network(demo.weights_path()).is_demo


def test_named_weights_are_fetched(tiny, monkeypatch):
    asked = []

    def fetch(name, *, progress):
        asked.append(name)
        return tiny / "tiny.safetensors"

    monkeypatch.setattr("squeeze_export.pipeline.network.fetch_weights", fetch)
    assert open_network("squeezenet1_1").source == "tiny.safetensors"
    assert asked == ["squeezenet1_1"]


def test_a_file_beats_named_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "squeezenet1_1").write_bytes(b"")
    with pytest.raises(BadInput, match="`squeezenet1_1` is not a checkpoint of a supported format"):
        open_network("squeezenet1_1")


def test_neither_file_nor_name():
    with pytest.raises(BadInput, match="`squeezenet3` is neither a file nor named weights"):
        open_network("squeezenet3")


def test_labels_replace_the_stored_ones(tmp_path):
    names = [f"class {index}" for index in range(demo.CLASS_COUNT)]
    (tmp_path / "labels.txt").write_text("\n".join(names))
    assert open_network(labels=tmp_path / "labels.txt").graph.labels == tuple(names)


def test_labels_that_do_not_match(tiny, tmp_path):
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    with pytest.raises(BadInput, match="`2` labels for a network of `5` classes"):
        open_network(tiny / "tiny.safetensors", labels=tmp_path / "labels.txt")


def test_bypass_is_handed_on(tiny, tmp_path):
    """Without metadata, only the user can tell a simple bypass."""
    save_file(load_file(tiny / "tiny.safetensors"), tmp_path / "plain.safetensors")
    asked = [None, StructureChoice(bypass="simple")]
    plain, simple = (open_network(tmp_path / "plain.safetensors", structure=structure) for structure in asked)
    assert [network.architecture.bypass for network in (plain, simple)] == ["none", "simple"]
    assert plain.graph.preprocess == TORCHVISION


def test_preprocessing_is_folded_into_the_graph(tiny):
    plain = open_network(tiny / "tiny.safetensors")
    other = open_network(tiny / "tiny.safetensors", preprocess=PreprocessChoice(std=(32.0, 32.0, 32.0)))
    assert plain.graph.preprocess != other.graph.preprocess
    np.testing.assert_allclose(other.graph.convs[0].weight, 2 * plain.graph.convs[0].weight)


def test_real_checkpoints(assets):
    for name, side in (("squeezenet1_1.safetensors", 224), ("squeezenet1_0_deep_compression.net", 227)):
        facts = open_network(assets / "weights" / name).facts()
        assert (facts["class_count"], facts["input_px"]) == (1000, side)


def test_notes_of_the_reader_are_facts(tiny, monkeypatch):
    assert "notes" not in open_network(tiny / "tiny.safetensors").facts()
    given = dataclasses.replace(network.read_checkpoint(tiny / "tiny.safetensors"), notes=("left out: `criterion.weight`",))
    monkeypatch.setattr(network, "read_checkpoint", lambda *_, **__: given)
    assert open_network(tiny / "tiny.safetensors").facts()["notes"] == ["left out: `criterion.weight`"]
