"""State dicts as people have them, each against torch's own logits of the user's network."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from renamed_networks import (
    SqueezeNet,
    blobs,
    by_module,
    in_blocks,
    in_blocks_with_relu,
    logits_of,
    numbered,
    numbered_norms,
    sequential,
    settled,
    staged,
    suffixed,
    varied,
    without_dropout,
)
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from squeeze_export.core import TORCHVISION
from squeeze_export.errors import BadInput
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.nets.architecture import Architecture, Fire, architecture
from squeeze_export.nets.checkpoints import Checkpoint, read_checkpoint

SMALL = Architecture("squeezenet_custom", 8, 3, (Fire(4, 6, 10), Fire(4, 8, 8), Fire(6, 12, 12)), (1,), 5)
V1_1 = architecture("squeezenet1_1", class_count=7)
SIDE_PX = 64
COUNT = 24


@dataclass(frozen=True)
class Form:
    """A way to write the network, and what reading it assumes."""

    arch: Architecture
    names: Any
    options: Mapping[str, Any]


FORMS: dict[str, Form] = {
    "BatchNorm in Sequentials": Form(SMALL, sequential, {}),
    "BatchNorm in Sequentials, convolutions with bias": Form(SMALL, sequential, {"bias": True}),
    "no Dropout": Form(SMALL, without_dropout, {"norm": False, "bias": True}),
    "squeeze_bn": Form(SMALL, suffixed, {}),
    "blocks": Form(SMALL, in_blocks, {}),
    "blocks with their ReLU": Form(SMALL, in_blocks_with_relu, {}),
    "bn1 to bn3": Form(SMALL, numbered_norms, {}),
    "bn1 to bn3 behind all convolutions": Form(SMALL, numbered_norms, {"norms_last": True}),
    "modules by name": Form(V1_1, by_module, {}),
    "modules by name, no BatchNorm": Form(V1_1, by_module, {"norm": False, "bias": True}),
    "conv1 to conv3": Form(V1_1, numbered, {}),
    "stages and units": Form(V1_1, staged, {}),
    "no bias anywhere": Form(SMALL, sequential, {"norm": False}),
    "linear head": Form(SMALL, sequential, {"linear": True}),
    "one channel": Form(SMALL, suffixed, {"channels": 1}),
}


def built(form: Form) -> SqueezeNet:
    return settled(SqueezeNet(form.arch, form.names, **form.options))


def assert_equals_torch(found: Checkpoint, network: nn.Module) -> None:
    """Same class on 24 of 24 images, and logits within 1e-4 of the largest."""
    preprocess = replace(found.preprocess, crop_px=SIDE_PX)
    pixels = blobs(COUNT, SIDE_PX, found.architecture.in_channels)
    expected = logits_of(network, pixels, preprocess.mean, preprocess.std)
    ours = FloatRunner(build_graph(found.architecture, found.tensors, preprocess))(pixels)
    assert len(set(expected.argmax(axis=1))) > 1
    assert np.array_equal(ours.argmax(axis=1), expected.argmax(axis=1))
    assert np.abs(ours - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("name", list(FORMS))
def test_forms_equal_torch(name: str, container: str, tmp_path: Path) -> None:
    form = FORMS[name]
    network = built(form)
    path = tmp_path / "net.bin"
    if container == "safetensors":
        save_file(network.state_dict(), path, metadata={"format": "pt"})
    else:
        torch.save(network.state_dict(), path, _use_new_zipfile_serialization=container == "zip")
    found = read_checkpoint(path)
    arch = found.architecture
    assert (arch.fires, arch.pools_after, arch.class_count) == (form.arch.fires, form.arch.pools_after, form.arch.class_count)
    assert_equals_torch(found, network)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("squeeze_bn", ["BatchNorm right behind its convolution, eps 1e-05"]),
        ("bn1 to bn3", ["BatchNorm right behind its convolution, eps 1e-05", "BatchNorms in the order of the convolutions"]),
        ("modules by name, no BatchNorm", ["pools after conv1, fire3 and fire5"]),
        ("linear head", ["linear layer behind the average pool, no ReLU after it"]),
        ("no Dropout", []),
    ],
)
def test_what_names_and_shapes_do_not_tell_is_assumed(name: str, says: list[str], tmp_path: Path) -> None:
    torch.save(state(name), tmp_path / "net.pth")
    values = [assumption.value for assumption in read_checkpoint(tmp_path / "net.pth").assumptions]
    assert all(text in values for text in says)
    assert sum(text.startswith(("BatchNorm", "linear", "pools after")) for text in values) == len(says) + (name == "linear head")
    assert ("ReLU after conv10" in values) == (name != "linear head")


def test_a_scale_off_by_a_thousandth_is_noticed(tmp_path: Path) -> None:
    """Negative control of `assert_equals_torch`."""
    network = built(FORMS["squeeze_bn"])
    torch.save(network.state_dict(), tmp_path / "net.pth")
    network.get_submodule("features.4.expand3x3_bn").weight.data *= 1.001
    with pytest.raises(AssertionError):
        assert_equals_torch(read_checkpoint(tmp_path / "net.pth"), network)


def test_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = built(FORMS["BatchNorm in Sequentials"])
    torch.save({"epoch": 3, "state_dict": network.state_dict()}, tmp_path / "net.ckpt")
    for module in [module for module in sys.modules if module.split(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError):
        __import__("torch")
    found = read_checkpoint(tmp_path / "net.ckpt")
    monkeypatch.undo()
    assert_equals_torch(found, network)


def state(form: str = "squeeze_bn") -> dict[str, torch.Tensor]:
    return dict(built(FORMS[form]).state_dict())


def under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in tensors.items()}


def optimizer() -> Any:
    network = built(FORMS["squeeze_bn"])
    adam = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3, 64, 64)).sum().backward()
    adam.step()
    return adam.state_dict()


SURROUNDED: dict[str, tuple[Callable[[], Any], str]] = {
    "Lightning: under `net.`, loss weights beside": (
        lambda: {"state_dict": {**under("net.", state()), "criterion.weight": torch.ones(5)}, "loops": {"fit": [1, 2]}},
        "`state_dict.criterion.weight`",
    ),
    "PyTorch's ImageNet example: best_acc1 is a tensor": (
        lambda: {"state_dict": under("module.", state()), "best_acc1": torch.tensor(61.5), "optimizer": optimizer()},
        "`best_acc1`, `optimizer` (96 tensors)",
    ),
    "AveragedModel": (lambda: {**under("module.", state()), "n_averaged": torch.tensor(7)}, "`n_averaged`"),
    "counted by thop": (
        lambda: {**state(), **{f"{key}.total_ops": torch.zeros(1, dtype=torch.float64) for key in ("features.0", "features")}},
        "`total_ops` (2 tensors)",
    ),
    "any keys, two deep": (
        lambda: {"run": {"best": state()}, "args": argparse.Namespace(lr=0.1)},
        "`args`, a `argparse.Namespace`",
    ),
    "under module.backbone.": (lambda: under("module.backbone.", state()), "`num_batches_tracked` (10 tensors)"),
    "compiled": (lambda: under("_orig_mod.", state()), "`num_batches_tracked`"),
    "numbers and texts among tensors": (lambda: {**state(), "epoch": 3, "arch": "squeezenet", 3: 4.5}, "`num_batches_tracked`"),
    "an average kept as a list": (
        lambda: {"model": state(), "ema": {"decay": 0.999, "shadow_params": list(state().values())}},
        "`ema` (62 tensors)",
    ),
    "pixels' mean and std": (
        lambda: {**under("net.", state()), "mean": torch.tensor([0.4, 0.5, 0.6]), "std": torch.ones(1, 3, 1, 1)},
        "`mean` (0.4, 0.5, 0.6) looks like pixels' mean or std",
    ),
    "plain": (state, "folded 10 BatchNorms into the convolutions before them"),
}


@pytest.mark.parametrize("name", list(SURROUNDED))
def test_what_is_no_part_of_the_network_is_left_out_and_noted(name: str, tmp_path: Path) -> None:
    made, note = SURROUNDED[name]
    torch.save(made(), tmp_path / "net.pth.tar")
    found = read_checkpoint(tmp_path / "net.pth.tar")
    assert note in "\n".join(found.notes)
    assert_equals_torch(found, built(FORMS["squeeze_bn"]))


def test_pruned_networks_are_multiplied_out(tmp_path: Path) -> None:
    network = built(FORMS["no Dropout"])
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            prune.random_unstructured(module, "weight", 0.3)
    prune.random_unstructured(network.get_submodule("features.0"), "bias", 0.5)
    torch.save(varied(network).state_dict(), tmp_path / "net.pth")
    found = read_checkpoint(tmp_path / "net.pth")
    assert found.notes == ("multiplied 12 pruned tensors by their masks",)
    assert np.mean(found.tensors["features.3.expand3x3.weight"] == 0) == pytest.approx(0.3, abs=0.05)
    assert_equals_torch(found, network)


TWICE: dict[str, tuple[Callable[[Any, Any], Any], str, str]] = {
    "beside each other": (lambda plain, ema: {"state_dict": plain, "state_dict_ema": ema}, "state_dict", "state_dict_ema"),
    "in one state dict": (
        lambda plain, ema: {"state_dict": {**under("model.", plain), **under("ema_model.module.", ema)}},
        "state_dict.model",
        "ema_model",
    ),
    "student and teacher": (lambda plain, ema: {**under("student.", plain), **under("teacher.", ema)}, "student", "teacher"),
}


@pytest.mark.parametrize("name", list(TWICE))
def test_of_several_networks_one_is_chosen(name: str, tmp_path: Path) -> None:
    put, plain_key, ema_key = TWICE[name]
    form = FORMS["no Dropout"]
    plain, ema = (settled(SqueezeNet(form.arch, form.names, **form.options), seed) for seed in (1, 2))
    path = tmp_path / "net.ckpt"
    torch.save(put(plain.state_dict(), ema.state_dict()), path)
    with pytest.raises(BadInput, match="holds `2` networks") as caught:
        read_checkpoint(path)
    assert caught.value.hint is not None
    assert f"--checkpoint-key {plain_key}" in caught.value.hint
    assert_equals_torch(read_checkpoint(path, key=plain_key), plain)
    assert_equals_torch(read_checkpoint(path, key=ema_key), ema)
    with pytest.raises(BadInput, match="no SqueezeNet under `best`"):
        read_checkpoint(path, key="best")


def test_layers_beside_the_network_are_refused_until_it_is_chosen(tmp_path: Path) -> None:
    torch.save({**under("net.", state()), "attention.weight": torch.zeros(5, 5)}, tmp_path / "net.pth")
    with pytest.raises(BadInput, match="has layers beside the network under `net`: `attention`") as caught:
        read_checkpoint(tmp_path / "net.pth")
    assert caught.value.hint == "--checkpoint-key net, if they are no part of it"
    found = read_checkpoint(tmp_path / "net.pth", key="net")
    assert "`attention.weight`" in "\n".join(found.notes)


def without(tensors: dict[str, torch.Tensor], *parts: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in tensors.items() if not any(part in key for part in parts)}


def renamed(tensors: dict[str, torch.Tensor], **names: str) -> dict[str, torch.Tensor]:
    for old, new in names.items():
        tensors = {key.replace(old, new): value for key, value in tensors.items()}
    return tensors


NOT_READ: dict[str, tuple[Callable[[], Any], str]] = {
    "a BatchNorm over both expands": (
        lambda: {
            **without(state(), "expand1x1_bn", "expand3x3_bn"),
            **under("features.4.bn.", dict.fromkeys(("weight", "bias", "running_mean", "running_var"), torch.ones(16))),
        },
        r"BatchNorm that cannot be folded, because it is not sure .* `features\.4\.bn` \(16 channels\)",
    ),
    "BatchNorms of which nothing tells the order": (
        lambda: renamed(without(state("modules by name"), ".")) or {"x": torch.ones(1)},
        "has no layer with a weight",
    ),
    "a BatchNorm without statistics": (
        lambda: without(state(), "running_", "num_batches"),
        r"tensors that no layer of a SqueezeNet has: `features\.1\.weight`.*\(a normalization without running statistics",
    ),
    "a BatchNorm without its variance": (
        lambda: without(state(), "4.squeeze_bn.running_var"),
        "`features.4.squeeze_bn` that cannot",
    ),
    "a PReLU": (lambda: {**state(), "features.2.weight": torch.ones(8)}, r"no layer of a SqueezeNet has: `features\.2\.weight`"),
    "weight normalization": (
        lambda: {**state(), "features.0.weight_g": torch.ones(8, 1, 1, 1)},
        r"parametrized weights: `features\.0\.weight_g`",
    ),
    "a bias missing": (
        lambda: without(state("no Dropout"), "features.4.squeeze.0.bias"),
        r"has no tensor `features\.4\.squeeze\.0\.bias`, and other layers have one",
    ),
    "a flattened map": (
        lambda: {**without(state("linear head"), "classifier"), "fc.weight": torch.zeros(5, 24 * 9), "fc.bias": torch.zeros(5)},
        "`fc` of shape .* behind `24` channels; it takes a flattened map",
    ),
    "widths of no published network, pools without a place": (
        lambda: dict(settled(SqueezeNet(replace(V1_1, conv1_channels=96), by_module)).state_dict()),
        "names that do not show where its pools are",
    ),
    "another network": (
        lambda: {"conv1.weight": torch.zeros(64, 3, 7, 7), "bn1.weight": torch.zeros(64), "fc.weight": torch.zeros(9, 64)},
        "and a SqueezeNet has 5 at least; its tensors: `conv1.weight` 64x3x7x7, `bn1.weight` 64, `fc.weight` 9x64",
    ),
    "a head of two layers": (
        lambda: {**state("linear head"), "fc.weight": torch.zeros(5, 5)},
        "`3` layers outside its modules, .*: `features.0`, `classifier.1`, `fc`",
    ),
    "a quantized network": (
        lambda: {"conv.weight": torch.quantize_per_tensor(torch.ones(2, 2, 1, 1), 0.1, 0, torch.qint8)},
        "holds quantized tensors",
    ),
    "whole numbers as weights": (
        lambda: {**state(), "features.0.weight": state()["features.0.weight"].to(torch.int8)},
        r"tensor `features\.0\.weight` of .* is `int8`",
    ),
}


@pytest.mark.filterwarnings("ignore:.*quantiz:UserWarning")
@pytest.mark.parametrize("name", list(NOT_READ))
def test_what_is_refused_says_why(name: str, tmp_path: Path) -> None:
    made, says = NOT_READ[name]
    torch.save(made(), tmp_path / "net.pth")
    with pytest.raises(BadInput, match=says) as caught:
        read_checkpoint(tmp_path / "net.pth")
    assert "\n" not in caught.value.message
    assert caught.value.hint is not None or "int8" in says or "cut" in says


def test_an_order_that_only_the_file_tells_is_taken_from_torch_alone(tmp_path: Path) -> None:
    """Modules called by letters, not in the alphabet's order: what torch saves has the program's order, safetensors has not."""
    letters = dict(zip((3, 4, 6), "cab", strict=True))

    def lettered(name: str, index: int, part: str) -> tuple[str, str]:
        return (f"features.{letters[index]}.{part}", "") if part else ("conv1" if name == "conv1" else "conv10", "")

    network = settled(SqueezeNet(SMALL, lettered, norm=False, bias=True))
    torch.save(network.state_dict(), tmp_path / "net.pth")
    with pytest.raises(BadInput, match="names that do not show where its pools are"):
        read_checkpoint(tmp_path / "net.pth")
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    with pytest.raises(BadInput, match="no Fire module of"):
        read_checkpoint(tmp_path / "net.safetensors")


def test_two_orders_that_fit_are_refused(tmp_path: Path) -> None:
    """Modules of the same widths: the names say one order, the file another."""
    arch = Architecture("squeezenet_custom", 16, 3, (Fire(4, 8, 8), Fire(4, 8, 8)), (), 5)
    tensors = dict(settled(SqueezeNet(arch, suffixed, norm=False, bias=True)).state_dict())
    tensors = renamed(tensors, **{"features.3": "features.9", "features.4": "features.3"})
    torch.save(renamed(tensors, **{"features.9": "features.4"}), tmp_path / "net.pth")
    with pytest.raises(BadInput, match="fits a SqueezeNet in two ways"):
        read_checkpoint(tmp_path / "net.pth")


@pytest.mark.parametrize("name", ["torch", "safetensors"])
def test_torchvisions_preprocessing_stays_the_default(name: str, tmp_path: Path) -> None:
    save = {"torch": torch.save, "safetensors": save_file}[name]
    save(state(), tmp_path / "net")
    assert read_checkpoint(tmp_path / "net").preprocess == TORCHVISION
