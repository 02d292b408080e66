"""SqueezeNets as people write them in torch: other names, BatchNorm, a linear head, one channel, any order of registration."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from squeeze_export.nets.architecture import Architecture

Names = Callable[[str, int, str], tuple[str, str]]
"""Name (`conv1`, `fire2`, `head`), index in `features` and part of a layer -> names of the convolution and of its BatchNorm."""

PARTS = ("squeeze", "expand1x1", "expand3x3")


class SqueezeNet(nn.Module):
    """A SqueezeNet whose layers have any names.

    Args:
        arch: its widths and pools; no bypass.
        names: of the layers.
        norm: whether BatchNorm stands behind every convolution but the head.
        bias: whether the convolutions have one.
        linear: whether the head is a linear layer behind the average pool.
        channels: of the image.
        norms_last: registers a Fire module's BatchNorms behind all of its convolutions.
    """

    def __init__(
        self,
        arch: Architecture,
        names: Names,
        *,
        norm: bool = True,
        bias: bool = False,
        linear: bool = False,
        channels: int = 3,
        norms_last: bool = False,
    ) -> None:
        super().__init__()
        self.arch, self.names, self.norm, self.linear, self.channels = arch, names, norm, linear, channels
        for layer in arch.layers():
            if layer.kind == "conv1":
                self._add(names("conv1", 0, ""), nn.Conv2d(channels, arch.conv1_channels, arch.conv1_kernel, 2, bias=bias))
            elif layer.fire is not None:
                fire = layer.fire
                convs = {
                    "squeeze": nn.Conv2d(layer.in_channels, fire.squeeze, 1, bias=bias),
                    "expand1x1": nn.Conv2d(fire.squeeze, fire.expand1x1, 1, bias=bias),
                    "expand3x3": nn.Conv2d(fire.squeeze, fire.expand3x3, 3, padding=1, bias=bias),
                }
                for part, conv in convs.items():
                    self._add(names(layer.name, layer.index + norm, part), conv, norm=norm and not norms_last)
                for part, conv in convs.items() if norm and norms_last else ():
                    self._place(names(layer.name, layer.index + norm, part)[1], nn.BatchNorm2d(conv.out_channels))
        head = (
            nn.Linear(arch.feature_channels, arch.class_count) if linear else nn.Conv2d(arch.feature_channels, arch.class_count, 1)
        )
        self._place(names("head", 0, "")[0], head)

    def _add(self, names: tuple[str, str], conv: nn.Conv2d, *, norm: bool | None = None) -> None:
        self._place(names[0], conv)
        if self.norm if norm is None else norm:
            self._place(names[1], nn.BatchNorm2d(conv.out_channels))

    def _place(self, path: str, module: nn.Module) -> None:
        *parents, last = path.split(".")
        at: nn.Module = self
        for parent in parents:
            if not hasattr(at, parent):
                at.add_module(parent, nn.Module())
            at = getattr(at, parent)
        at.add_module(last, module)

    def _run(self, names: tuple[str, str], values: torch.Tensor) -> torch.Tensor:
        values = self.get_submodule(names[0])(values)
        return functional.relu(self.get_submodule(names[1])(values) if self.norm else values)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for layer in self.arch.layers():
            if layer.kind == "conv1":
                values = self._run(self.names("conv1", 0, ""), values)
            elif layer.kind == "pool":
                values = functional.max_pool2d(values, 3, 2, ceil_mode=True)
            else:
                squeeze, expand1x1, expand3x3 = (self.names(layer.name, layer.index + self.norm, part) for part in PARTS)
                squeezed = self._run(squeeze, values)
                values = torch.cat([self._run(expand1x1, squeezed), self._run(expand3x3, squeezed)], 1)
        head = self.get_submodule(self.names("head", 0, "")[0])
        if self.linear:
            return head(values.mean((2, 3)))
        return functional.relu(head(values)).mean((2, 3))


def sequential(name: str, index: int, part: str) -> tuple[str, str]:
    """Convolution and BatchNorm in a Sequential each, all of them in torchvision's `features`."""
    if part:
        return f"features.{index}.{part}.0", f"features.{index}.{part}.1"
    return ("features.0", "features.1") if name == "conv1" else ("classifier.1", "")


def without_dropout(name: str, index: int, part: str) -> tuple[str, str]:
    """As `sequential`; no Dropout stands before the head."""
    return ("classifier.0", "") if name == "head" else sequential(name, index, part)


def suffixed(name: str, index: int, part: str) -> tuple[str, str]:
    """`squeeze` and `squeeze_bn`, in torchvision's `features`."""
    return (f"features.{index}.{part}", f"features.{index}.{part}_bn") if part else sequential(name, index, part)


def in_blocks(name: str, index: int, part: str) -> tuple[str, str]:
    """Convolution and BatchNorm in a block each, all of them in torchvision's `features`, whose ReLUs and pools have numbers."""
    block = {"conv1": "features.0", "head": "classifier.1"}.get(name, f"features.{index - 1}.{part}")
    return ("classifier.1", "") if name == "head" else (f"{block}.conv", f"{block}.norm")


def in_blocks_with_relu(name: str, index: int, part: str) -> tuple[str, str]:
    """As `in_blocks`, with the ReLU in the block too."""
    return in_blocks(name, index - 1, part)


def numbered_norms(name: str, index: int, part: str) -> tuple[str, str]:
    """`squeeze` and `bn1`, `expand1x1` and `bn2`, `expand3x3` and `bn3`."""
    return (f"features.{index}.{part}", f"features.{index}.bn{PARTS.index(part) + 1}") if part else sequential(name, index, part)


def by_module(name: str, _index: int, part: str) -> tuple[str, str]:
    """`conv1` and `bn1`, `fire2.squeeze` and `fire2.squeeze_bn`, `conv10`: the pools have no names."""
    if part:
        return f"{name}.{part}", f"{name}.{part}_bn"
    return ("conv1", "bn1") if name == "conv1" else ("conv10", "")


def numbered(name: str, index: int, part: str) -> tuple[str, str]:
    """`fire2.conv1`, `fire2.bn1`, `fire2.conv2` ...; the head is `conv2`."""
    if part:
        return f"{name}.conv{PARTS.index(part) + 1}", f"{name}.bn{PARTS.index(part) + 1}"
    return ("conv2", "") if name == "head" else by_module(name, index, part)


def staged(name: str, _index: int, part: str) -> tuple[str, str]:
    """Units in stages, as SqueezeNet 1.1 has them; each layer is a module of its own."""
    if part:
        fire = int(name.removeprefix("fire"))
        stage, unit = (1, fire - 1) if fire < 4 else (2, fire - 3) if fire < 6 else (3, fire - 5)
        return f"features.stage{stage}.unit{unit}.{part}.conv", f"features.stage{stage}.unit{unit}.{part}.bn"
    return ("features.init_block.conv", "features.init_block.bn") if name == "conv1" else ("output.final_conv", "")


def settled(network: SqueezeNet, seed: int = 0) -> SqueezeNet:
    """The network, `varied`, with random weights and BatchNorm statistics, some of the scales negative."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values, low, high in ((module.weight, -0.5, 1.5), (module.bias, -0.3, 0.3)):
                    values.copy_(torch.rand(values.shape, generator=draw) * (high - low) + low)
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=draw) * 0.2)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=draw) + 0.2)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.copy_(torch.randn(module.weight.shape, generator=draw) * (2 / fan_in) ** 0.5)
                if module.bias is not None:
                    module.bias.copy_(torch.randn(module.bias.shape, generator=draw) * 0.1)
    return varied(network)


def varied(network: SqueezeNet) -> SqueezeNet:
    """The network, in eval mode, its head set so that no class wins always."""
    network.eval()
    with torch.no_grad():
        head = network.get_submodule(network.names("head", 0, "")[0])
        pixels = torch.from_numpy(blobs(24, 64, network.channels).transpose(0, 3, 1, 2) / 64.0 - 2).float()
        seen: list[torch.Tensor] = []
        hook = head.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        network(pixels)
        hook.remove()
        found = seen[0].reshape(len(pixels), len(head.bias), -1).mean(2)  # before the ReLU
        scale = 1 / found.std(0)
        weight = getattr(head, "weight_orig", head.weight)
        weight *= scale.reshape(-1, *[1] * (weight.ndim - 1))
        head.bias.copy_((head.bias - found.mean(0)) * scale)
        for _ in range(60):
            head.bias += 1 - network(pixels).mean(0)  # behind the ReLU
    return network


def blobs(count: int, size_px: int, channels: int = 3) -> np.ndarray:
    """(N, H, W, C) uint8 images of low frequency: of plain noise, all would give nearly the same logits."""
    coarse = np.random.default_rng(1).integers(0, 256, (count, 5, 5, channels), np.uint8)
    return coarse.repeat(-(-size_px // 5), 1).repeat(-(-size_px // 5), 2)[:, :size_px, :size_px]


def logits_of(network: nn.Module, pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """torch's own logits."""
    normalised = ((pixels.astype(np.float64) - mean) / std).astype(np.float32)
    with torch.inference_mode():
        return network(torch.from_numpy(normalised.transpose(0, 3, 1, 2).copy())).numpy()
