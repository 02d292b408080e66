"""Architecture and tensors to graph. It takes raw pixels: mean, std and channel order are put into it (`pixels`)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import Preprocess, TensorSpec
from squeeze_export.errors import BadInput
from squeeze_export.graph.nodes import Add, Concat, Conv, GlobalAveragePool, Graph, MaxPool, Node, Pads, output_px
from squeeze_export.graph.pixels import on_pixels
from squeeze_export.nets.architecture import Architecture
from squeeze_export.nets.recognition import check_shapes

MIN_INPUT_PX = 32
MAX_INPUT_PX = 2048


def build_graph(
    arch: Architecture,
    tensors: Mapping[str, NDArray[np.float32]],
    preprocess: Preprocess,
    *,
    labels: tuple[str, ...] = (),
    checkpoint_sha256: str = "",
) -> Graph:
    """Builds the float graph of a checkpoint.

    Args:
        arch: the description.
        tensors: torchvision's key -> float32 array, exactly the keys and shapes of `tensor_shapes(arch)`.
        preprocess: of the checkpoint; its crop becomes the input size.
        labels: one per class, or empty.
        checkpoint_sha256: recorded in every product.

    Raises:
        BadInput: a tensor is missing, superfluous, misshapen or not finite; the input is too small; labels do not match.
    """
    _check(arch, tensors, preprocess, labels)
    nodes: list[Node] = []
    current, (height, width) = "input", preprocess.input_size[:2]

    def conv(name: str, key: str, source: str, *, stride: int = 1, pad: int = 0, relu: bool = True) -> str:
        weight, bias = tensors[f"{key}.weight"], tensors[f"{key}.bias"]
        nodes.append(Conv(name, source, weight, bias, (stride, stride), (pad, pad, pad, pad), relu))
        return name

    for layer in arch.layers():
        key = f"features.{layer.index}"
        if layer.kind == "conv1":
            current = conv("conv1", key, current, stride=arch.conv1_stride, pad=arch.conv1_pad)
            height, width = (output_px(side, arch.conv1_kernel, arch.conv1_stride, 2 * arch.conv1_pad) for side in (height, width))
        elif layer.kind == "pool":
            if min(height, width) < (2 if arch.ceil_pools else 3):
                raise BadInput(f"an input of `{preprocess.size_text}` px shrinks to nothing before {layer.name}", hint="see --crop")
            pads = ceil_pads(height, width) if arch.ceil_pools else (0, 0, 0, 0)
            nodes.append(MaxPool(layer.name, current, (3, 3), (2, 2), pads))
            current, height, width = layer.name, output_px(height, 3, 2, pads[2]), output_px(width, 3, 2, pads[3])
        elif layer.fire is not None:
            source = current
            squeezed = conv(f"{layer.name}/squeeze1x1", f"{key}.squeeze", source)
            branches = (
                conv(f"{layer.name}/expand1x1", f"{key}.expand1x1", squeezed),
                conv(f"{layer.name}/expand3x3", f"{key}.expand3x3", squeezed, pad=1),
            )
            nodes.append(Concat(f"{layer.name}/concat", branches))
            current = f"{layer.name}/concat"
            if layer.fire.bypass != "none":
                if layer.fire.bypass == "complex":
                    source = conv(f"{layer.name}/bypass1x1", f"{key}.bypass", source, relu=False)
                nodes.append(Add(f"{layer.name}/add", (current, source)))
                current = f"{layer.name}/add"
    current = conv("conv10", "classifier.1", current, pad=arch.conv10_pad, relu=arch.final_relu)
    nodes.append(GlobalAveragePool("logits", current))
    return Graph(
        arch.name,
        on_pixels(nodes, preprocess),
        TensorSpec("input", ("N", *preprocess.input_size), "uint8", "NHWC", 1.0, 0),
        TensorSpec("logits", ("N", arch.class_count), "float32", "NC"),
        preprocess,
        labels,
        checkpoint_sha256,
    )


def ceil_pads(height_px: int, width_px: int) -> Pads:
    """Padding that makes a 3x3 stride-2 pool equal to torch's `ceil_mode=True`."""
    return (0, 0, (height_px - 3) % 2, (width_px - 3) % 2)


def _check(arch: Architecture, tensors: Mapping[str, NDArray[np.float32]], preprocess: Preprocess, labels: tuple[str, ...]) -> None:
    check_shapes(arch, {key: tensor.shape for key, tensor in tensors.items()})
    for key, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise BadInput(f"tensor `{key}` holds values that are not finite")
    height, width, channels = preprocess.input_size
    if not MIN_INPUT_PX <= min(height, width) <= max(height, width) <= MAX_INPUT_PX:
        raise BadInput(f"an input of `{preprocess.size_text}` px is outside {MIN_INPUT_PX} to {MAX_INPUT_PX}", hint="see --crop")
    taken = tensors["features.0.weight"].shape[1]
    if taken != channels:
        raise BadInput(f"the network takes images of `{taken}` channels, its preprocessing gives `{channels}`")
    if labels and len(labels) != arch.class_count:
        raise BadInput(
            f"`{len(labels)}` labels for a network of `{arch.class_count}` classes",
            hint="give one label a line, in index order, with --labels",
        )
