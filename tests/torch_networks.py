"""SqueezeNets as people write them in torch, after torchvision's `models/squeezenet.py`: what the reference is held against."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from squeeze_export.core import Preprocess


class Fire(nn.Module):
    """Squeeze, then two expands side by side; `bypass` adds the input."""

    def __init__(self, inputs: int, squeeze: int, expand: int, *, bypass: bool = False) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.around = bypass

    def forward(self, x: Tensor) -> Tensor:
        squeezed = torch.relu(self.squeeze(x))
        expanded = torch.cat([torch.relu(self.expand1x1(squeezed)), torch.relu(self.expand3x3(squeezed))], 1)
        return expanded + x if self.around else expanded


class SqueezeNet(nn.Module):
    """Three Fire modules and two pools, under torchvision's names; every number that a state dict does not tell is an argument."""

    def __init__(
        self,
        *,
        kernel: int = 3,
        stride: int = 2,
        padding: int = 0,
        ceil: bool = True,
        final_relu: bool = True,
        conv10_pad: int = 0,
        bypass: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.features = nn.Sequential(
            nn.Conv2d(3, 12, kernel, stride=stride, padding=padding),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, ceil_mode=ceil),
            Fire(12, 6, 8),
            Fire(16, 6, 8, bypass=bypass),
            nn.MaxPool2d(3, stride=2, ceil_mode=ceil),
            Fire(16, 8, 12),
        )
        tail = [nn.ReLU(inplace=True)] if final_relu else []
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(24, 10, 1, padding=conv10_pad), *tail, nn.AdaptiveAvgPool2d(1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                nn.init.normal_(module.bias, std=0.1)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


class Case(NamedTuple):
    """A network that torchvision's values do not fit, and the options that tell what it is."""

    arguments: dict[str, Any]
    options: dict[str, Any]


CASES = {
    "CIFAR-10, padding 3, no final ReLU": Case(
        {"kernel": 7, "padding": 3, "final_relu": False}, {"conv1_pad": 3, "final_relu": False}
    ),
    "CIFAR-10, padding 1": Case({"padding": 1, "final_relu": False}, {"conv1_pad": 1, "final_relu": False}),
    "small images, stride 1": Case({"stride": 1}, {"conv1_stride": 1}),
    "stride 1 and padding": Case({"stride": 1, "padding": 1}, {"conv1_stride": 1, "conv1_pad": 1}),
    "floor pools": Case({"ceil": False}, {"ceil_pools": False}),
    "conv10 padded": Case({"conv10_pad": 1}, {"conv10_pad": 1}),
    "bypass": Case({"bypass": True}, {"bypass": "simple"}),
}
"""Those of issue F and one for every other untold thing."""


def normalized(pixels: NDArray[np.uint8], preprocess: Preprocess) -> Tensor:
    """(N, H, W, 3) RGB pixels as torch's transforms make the input of them: (N, 3, H, W), in the network's channel order."""
    ordered = pixels[..., ::-1] if preprocess.channel_order == "bgr" else pixels
    values = (torch.from_numpy(ordered.astype(np.float32)) - torch.tensor(preprocess.mean)) / torch.tensor(preprocess.std)
    return values.permute(0, 3, 1, 2)


def torch_logits(network: nn.Module, pixels: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float32]:
    """What a user sees: (N, classes)."""
    with torch.no_grad():
        logits: NDArray[np.float32] = network(normalized(pixels, preprocess)).numpy()
    return logits


def saved(network: nn.Module, path: Path) -> Path:
    """The state dict as people save it."""
    torch.save(network.state_dict(), path)
    return path


def pixels_of(count: int, side_px: int, seed: int = 0) -> NDArray[np.uint8]:
    """(N, H, W, 3) uint8, noise of blocks of 4 px."""
    blocks = np.random.default_rng(seed).integers(0, 256, (count, -(-side_px // 4), -(-side_px // 4), 3), np.uint8)
    return np.ascontiguousarray(blocks.repeat(4, 1).repeat(4, 2)[:, :side_px, :side_px])


def exported(network: nn.Module, path: Path, side_px: int, **options: Any) -> Path:
    """The network as an ONNX file, by torch's own exporter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that there is a newer one, which needs another package
        image = torch.zeros(1, 3, side_px, side_px)
        torch.onnx.export(network, (image,), path, dynamo=False, opset_version=17, **options)
    return path
