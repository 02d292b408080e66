"""The family as torch modules, for training. The rest of the project runs checkpoints without torch.

The state dict of a plain module has exactly the keys and shapes of `architecture.tensor_shapes`. With `batch_norm` every
convolution is followed by a normalisation while it trains, which `fold_batch_norm` takes away again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import require
from squeeze_export.errors import BadInput
from squeeze_export.nets.architecture import Architecture, Fire, tensor_shapes

if TYPE_CHECKING:
    from torch import Tensor, nn

_FOLDED = ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")


def build_module(arch: Architecture, *, batch_norm: bool = False) -> nn.Module:
    """Builds the network with torch's default initialisation.

    Args:
        arch: the description.
        batch_norm: put a BatchNorm after every convolution, for training; the keys then differ.

    Returns:
        a module from (N, C, H, W) float32, normalised as the checkpoint's `Preprocess` says, to logits (N, classes) float32.

    Raises:
        Unavailable: torch is not installed.
    """
    require("torch", "torch")
    from torch import nn

    features: OrderedDict[str, nn.Module] = OrderedDict()
    for layer in arch.layers():
        if layer.kind == "conv1":
            features["0"] = _conv(
                arch.in_channels,
                arch.conv1_channels,
                arch.conv1_kernel,
                stride=arch.conv1_stride,
                pad=arch.conv1_pad,
                batch_norm=batch_norm,
            )
            features["1"] = nn.ReLU(inplace=True)
        elif layer.kind == "pool":
            features[str(layer.index)] = nn.MaxPool2d(3, stride=2, ceil_mode=arch.ceil_pools)
        elif layer.fire is not None:
            features[str(layer.index)] = _fire_class()(layer.in_channels, layer.fire, batch_norm)
    # Index 0 is torchvision's dropout, which has no tensors; it keeps conv10 at `classifier.1`.
    classifier: OrderedDict[str, nn.Module] = OrderedDict()
    classifier["0"] = nn.Identity()
    classifier["1"] = _conv(arch.feature_channels, arch.class_count, 1, pad=arch.conv10_pad, batch_norm=batch_norm)
    classifier["2"] = nn.ReLU(inplace=True) if arch.final_relu else nn.Identity()
    classifier["3"] = nn.AdaptiveAvgPool2d(1)
    rooms = [("features", nn.Sequential(features)), ("classifier", nn.Sequential(classifier)), ("flatten", nn.Flatten())]
    return nn.Sequential(OrderedDict(rooms))


def fold_batch_norm(module: nn.Module, arch: Architecture) -> dict[str, NDArray[np.float32]]:
    """Folds the running statistics into the convolutions: w' = w g / sqrt(v + eps), b' = (b - m) g / sqrt(v + eps) + beta.

    The arithmetic is float64, rounded once at the end.

    Args:
        module: of `build_module(arch)`, with or without `batch_norm`; it is not changed.
        arch: its description.

    Returns:
        the state dict of the plain network: the keys and shapes of `tensor_shapes(arch)`, float32.

    Raises:
        BadInput: the module was built from another description.
    """
    state = module.state_dict()
    folded: dict[str, NDArray[np.float32]] = {}
    for key in tensor_shapes(arch):
        name = key.removesuffix(".weight")
        if name == key:
            continue
        normalised = f"{name}.norm.weight" in state
        source = f"{name}.conv" if normalised else name
        if f"{source}.weight" not in state:
            raise BadInput(f"the module has no `{source}.weight`: it is not a `{arch.name}`")
        weight, bias = _float64(state[f"{source}.weight"]), _float64(state[f"{source}.bias"])
        if normalised:
            gain, shift, mean, variance = (_float64(state[f"{name}.{part}"]) for part in _FOLDED)
            factor = gain / np.sqrt(variance + _norm_of(module, name).eps)
            weight, bias = weight * factor[:, None, None, None], (bias - mean) * factor + shift
        folded[key] = weight.astype(np.float32)
        folded[f"{name}.bias"] = bias.astype(np.float32)
    return folded


def load_arrays(module: nn.Module, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Writes a plain state dict into a module built without `batch_norm`.

    Raises:
        BadInput: a key or a shape does not fit.
    """
    torch = require("torch", "torch")
    try:
        module.load_state_dict({key: torch.from_numpy(np.array(value, np.float32)) for key, value in tensors.items()})
    except RuntimeError as err:
        raise BadInput(f"these tensors do not fit the module: {err}") from err


def _float64(tensor: Tensor) -> NDArray[np.float64]:
    return np.asarray(tensor.detach().double().cpu().numpy(), np.float64)


def _norm_of(module: nn.Module, name: str) -> nn.BatchNorm2d:
    norm: nn.BatchNorm2d = module.get_submodule(f"{name}.norm")  # type: ignore[assignment]
    return norm


def _conv(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, pad: int = 0, batch_norm: bool = False
) -> nn.Module:
    from torch import nn

    conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=pad)
    if not batch_norm:
        return conv
    return nn.Sequential(OrderedDict([("conv", conv), ("norm", nn.BatchNorm2d(out_channels))]))


@lru_cache(maxsize=1)
def _fire_class() -> type[nn.Module]:
    """Defines the Fire module when torch is first needed, so that this file imports without it."""
    import torch
    from torch import nn

    class FireModule(nn.Module):
        """(N, in_channels, H, W) to (N, fire.channels, H, W). Figure 2 adds the bypass after the ReLU of the expand."""

        def __init__(self, in_channels: int, fire: Fire, batch_norm: bool) -> None:
            super().__init__()
            self.squeeze = _conv(in_channels, fire.squeeze, 1, batch_norm=batch_norm)
            self.expand1x1 = _conv(fire.squeeze, fire.expand1x1, 1, batch_norm=batch_norm)
            self.expand3x3 = _conv(fire.squeeze, fire.expand3x3, 3, pad=1, batch_norm=batch_norm)
            self.kind = fire.bypass
            if fire.bypass == "complex":
                self.bypass = _conv(in_channels, fire.channels, 1, batch_norm=batch_norm)

        def forward(self, x: Tensor) -> Tensor:
            squeezed = torch.relu(self.squeeze(x))
            expanded = torch.cat([torch.relu(self.expand1x1(squeezed)), torch.relu(self.expand3x3(squeezed))], 1)
            if self.kind == "simple":
                return expanded + x
            if self.kind == "complex":
                return expanded + torch.as_tensor(self.bypass(x))
            return expanded

    return FireModule
