"""An ONNX file of any graph to ours, by what it computes: no structure is expected, and no name.

Every operator of the file becomes nodes of the graph, or changes one exactly:

- BatchNormalization, and a constant added or multiplied channel by channel, go into the convolution before it, in float64; where
  a ReLU or a pool is in between, into the one behind it, or else into a 1x1 convolution of its own.
- A ReLU behind a max-pool or a Concat goes before it: max(relu(x)) = relu(max(x)).
- AveragePool inside the network is a convolution with 1 / (rows * columns) from each channel to itself.
- A linear layer behind the global average pool is a 1x1 convolution before it: the mean of W x + b is W mean(x) + b. On a flattened
  map it is a convolution with a kernel of the whole map.
- What is done to the pixels first is mean, std and layout, which `Preprocess` says; Softmax and its like at the end are left out.

Maps are in float64 until the nodes are made. The file's own batch size counts while its shapes are computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import CAFFE, TORCHVISION, Preprocess, TensorSpec
from squeeze_export.errors import BadInput
from squeeze_export.formats.onnx import OnnxFile
from squeeze_export.formats.onnx_constants import MAX_ELEMENTS, evaluate, flattened, reshaped, shape_of, squeezed, unsqueezed
from squeeze_export.graph.draft import INPUT, NO_PADS, OUTPUT, Doubles, Draft, DraftLayer
from squeeze_export.graph.nodes import Graph, Node, Pads, Pair
from squeeze_export.graph.onnx_operator import FLOATS, Operator
from squeeze_export.graph.onnx_window import by, pool_kernel, window_of
from squeeze_export.graph.pixels import on_pixels
from squeeze_export.nets.assumptions import PIXELS

OLDEST_OPSET = 7
MIN_SIDE_PX, MAX_SIDE_PX = 8, 2048
DEFAULT_SIDE_PX = 224
MAX_NODES = 4096
MAX_AVERAGING = 1 << 24
"""Weights of a convolution that only averages or scales, which the file does not hold."""
_ENDS = ("Softmax", "LogSoftmax", "Sigmoid")
_INTEGER_FILE = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "DynamicQuantizeLinear", "MatMulInteger")


@dataclass(frozen=True, eq=False)
class OnnxGraph:
    """What an ONNX file computes.

    Attributes:
        nodes: in topological order, float32. They read `input`: pixels as the file's first layer wants them, normalized and in the
            file's channel order, (N, H, W, C). `graph.pixels.on_pixels` puts raw ones in front.
        size: height, width and channels of the input.
        fixed: whether the file itself fixes height and width.
        byte_input: whether the file takes integers, 0 to 255.
        mean: per channel, in the units of the file's own input, what it takes from its pixels; 0 where it takes nothing.
        std: per channel, in the same units, what it divides them by; 1 where it divides by nothing.
        class_count: outputs.
        notes: what was done beyond one operator for one: layers made up, operators left out.
    """

    nodes: tuple[Node, ...]
    size: tuple[int, int, int]
    fixed: bool
    byte_input: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_count: int
    notes: tuple[str, ...]

    @property
    def normalizes(self) -> bool:
        """Whether the file brings pixels to the first layer's range by itself."""
        return any(self.mean) or any(value != 1 for value in self.std)

    @property
    def unit(self) -> float:
        """What 1 in the file's own input is in pixels of 0 to 255, as its mean and std tell: 255 where it takes 0 to 1."""
        return 1.0 if self.byte_input or max(*map(abs, self.mean), *self.std) > 1 else 255.0


def preprocess_of(read: OnnxGraph) -> tuple[Preprocess, dict[str, str]]:
    """What has to happen to a photograph's pixels before the first layer, as far as the file tells.

    Where a file of floats normalizes by itself, its mean and std tell whether it takes pixels of 0 to 1 or 0 to 255, and Caffe's
    mean (104, 117, 123) that the channels are blue, green, red.

    Returns:
        The preprocessing, and its fields that the file does not tell, with where their values come from.
    """
    height, width, channels = read.size
    side, usual = max(height, width), TORCHVISION.resize_px
    preprocess = replace(
        TORCHVISION,
        resize_px=usual if 192 <= side <= usual else round(side * usual / TORCHVISION.crop_px),
        crop_px=height,
        width_px=None if width == height else width,
    )
    untold = {
        name: why
        for name, why in dict.fromkeys(PIXELS, "torchvision's preprocessing").items()
        if name != "crop_px" or not read.fixed
    }
    if read.normalizes or read.byte_input:
        mean, std = (tuple(value * read.unit for value in values) for values in (read.mean, read.std))
        preprocess = replace(preprocess, mean=mean, std=std)
        untold = {name: why for name, why in untold.items() if name not in ("mean", "std")}
    elif channels == 1:
        preprocess = replace(preprocess, mean=(127.5,), std=(127.5,))
        untold |= dict.fromkeys(("mean", "std"), "usual for grey images, -1 to 1")
    if channels == 1:
        del untold["channel_order"]
        return replace(preprocess, channel_order="gray"), untold
    if all(abs(one - other) < 2 for one, other in zip(preprocess.mean, CAFFE.mean, strict=True)):
        return replace(preprocess, channel_order="bgr"), untold | {"channel_order": "the file's own mean, which is Caffe's"}
    return preprocess, untold


def read_graph(file: OnnxFile, name: str, size: Pair | None = None) -> OnnxGraph:
    """Reads a float network of Conv, BatchNormalization, ReLU, pools, Concat, Add, global pool and linear layers.

    Args:
        file: the file; its nodes may be in any order.
        name: of it, for messages.
        size: height and width of the input; None is the file's own, or 224 x 224 where the file leaves it open.

    Raises:
        BadInput: an operator that is not among these or has a form that cannot be kept (both are named), integers instead of
            floats, a damaged file, or a `size` that is not the file's.
        Unavailable: `onnx` is not installed.
    """
    return _Reading(file, name, size).graph()


def graph_of(
    read: OnnxGraph, preprocess: Preprocess, *, name: str, labels: tuple[str, ...] = (), checkpoint_sha256: str = ""
) -> Graph:
    """The float graph of raw pixels.

    Args:
        read: what the file computes.
        preprocess: all that happens to the pixels before the first layer, what the file does itself included.
        name: of the network.
        labels: one per class, or empty.
        checkpoint_sha256: recorded in every product.
    """
    height, width, channels = read.size
    return Graph(
        name,
        on_pixels(read.nodes, preprocess),
        TensorSpec(INPUT, ("N", height, width, channels), "uint8", "NHWC", 1.0, 0),
        TensorSpec(OUTPUT, ("N", read.class_count), "float32", "NC"),
        preprocess,
        labels,
        checkpoint_sha256,
    )


@dataclass(frozen=True, eq=False)
class _Value:
    """A tensor of the file: what a layer makes, and what has happened to that since.

    Attributes:
        made: the layer's name.
        dims: of the tensor in the file, batch included.
        by_channel: whether its elements lie channel by channel (NCHW), or channels innermost (NHWC).
        scale: (C,), by which the layer's values are multiplied. None is 1.
        shift: (C,), what is added then. None is 0.
        pads: zeros around the map, after that.
        pooled: whether its mean over height and width is meant.
        end: the operator that turned logits into something else.
    """

    made: str
    dims: tuple[int, ...]
    by_channel: bool = True
    scale: Doubles | None = None
    shift: Doubles | None = None
    pads: Pads = NO_PADS
    pooled: bool = False
    end: str = ""


class _Reading:
    """One reading of one file."""

    def __init__(self, file: OnnxFile, name: str, size: Pair | None) -> None:
        self._file, self._name = file, name
        self._operators = [Operator(file, name, node) for node in _checked_nodes(file, name)]
        self._front: tuple[Doubles, Doubles] | None = None
        self._notes: list[str] = []
        self._computed = 0
        self._values: dict[str, NDArray[Any] | _Value] = {}
        self._read_input(size)

    def graph(self) -> OnnxGraph:
        for bare in self._operators:
            op = replace(bare, operands=[self._operand(bare, source) for source in bare.node.input])
            constant = not any(isinstance(operand, _Value) for operand in op.operands)
            self._values[op.node.output[0]] = self._constant(op) if constant else self._step(op)
        result = self._values.get(self._file.graph.output[0].name)
        if not isinstance(result, _Value) or result.made == INPUT:
            raise BadInput(f"`{self._name}` gives nothing that a convolution made of its input")
        op = self._operators[-1]
        channels = self._draft.layers[result.made].size[0]
        if math.prod(result.dims[1:]) != channels and not (result.dims == (channels,) and self._batch == 1):
            op.refuse(f"gives `{list(result.dims)}`, where one number for each class is needed")
        nodes = self._draft.nodes(self._settled(op, result))
        mean, std = self._normalization()
        _, height, width = self._draft.layers[INPUT].size
        notes = tuple(dict.fromkeys(self._notes))
        return OnnxGraph(nodes, (height, width, len(mean)), self._fixed, self._byte_input, mean, std, channels, notes)

    def _read_input(self, size: Pair | None) -> None:
        graph = self._file.graph
        entry = next(entry for entry in graph.input if entry.name not in self._file.stored)
        dims = [dim.dim_value if dim.WhichOneof("value") == "dim_value" else None for dim in entry.type.tensor_type.shape.dim]
        if len(dims) != 4 or any(side is not None and side < 1 for side in dims):
            raise BadInput(f"`{self._name}` takes an input of `{dims}`; a batch of images has four dimensions")
        by_channel = dims[1] in (1, 3) or dims[3] not in (1, 3)
        channels, height, width = (dims[1], dims[2], dims[3]) if by_channel else (dims[3], dims[1], dims[2])
        channels = 3 if channels is None else channels
        if channels not in (1, 3):
            raise BadInput(f"`{self._name}` takes images of `{channels}` channels; 3, or 1 for grey ones, are possible")
        self._fixed = height is not None and width is not None
        own = (height, width)
        sides = size or (height or width or DEFAULT_SIDE_PX, width or height or DEFAULT_SIDE_PX)
        if any(side not in (None, wanted) for side, wanted in zip(own, sides, strict=True)):
            hint = "leave out --crop, or export the network at that size"
            raise BadInput(f"`{self._name}` takes images of `{by(own)}` px, not `{by(sides)}`", hint=hint)
        if not all(MIN_SIDE_PX <= side <= MAX_SIDE_PX for side in sides):
            raise BadInput(f"`{self._name}` takes images of `{by(sides)}` px; {MIN_SIDE_PX} to {MAX_SIDE_PX} are possible")
        dtype = self._file.dtype(entry.type.tensor_type.elem_type)
        if dtype not in (*FLOATS, "uint8", "int32", "int64"):
            raise BadInput(f"`{self._name}` takes `{dtype}` images; floats or uint8 are needed")
        self._byte_input, self._batch = dtype not in FLOATS, dims[0] or 1
        self._draft = Draft(self._name, (channels, *sides))
        shape = (self._batch, channels, *sides) if by_channel else (self._batch, *sides, channels)
        self._values[entry.name] = _Value(INPUT, shape, by_channel)

    def _check(self, op: Operator) -> None:
        if op.schema is None:
            self._refuse_foreign(op)
        op.verify()

    def _operand(self, op: Operator, name: str) -> NDArray[Any] | _Value | None:
        if not name:
            return None
        if name not in self._values:
            if name not in self._file.stored:
                op.refuse(f"takes `{name}`, a further result of an operator")
            self._values[name] = self._file.array(name)
        return self._values[name]

    def _constant(self, op: Operator) -> NDArray[Any]:
        self._check(op)
        operands = [np.empty(0) if operand is None else operand for operand in op.operands]
        try:
            made = evaluate(op.kind, operands, op.attributes)
        except NotImplementedError:
            op.refuse("is no operator that is computed beforehand, and all that it takes is constant")
        except ValueError as err:
            op.refuse(f"cannot be computed: {err}")
        self._count(op, made, operands)
        return made

    def _count(self, op: Operator, made: NDArray[Any], sources: Sequence[NDArray[Any]]) -> None:
        """Bounds the memory that all computed constants take together; views of their sources take none."""
        self._computed += 0 if any(np.may_share_memory(made, source) for source in sources) else made.size
        if self._computed > MAX_ELEMENTS:
            op.refuse("comes after too many other computed constants")

    def _step(self, op: Operator) -> NDArray[Any] | _Value:
        """What an operator makes of a value that depends on the image."""
        step = _STEPS.get(op.kind)
        if step is None:
            self._refuse_foreign(op)
        self._check(op)
        values = [operand for operand in op.operands if isinstance(operand, _Value)]
        ended = next((value.end for value in values if value.end), "")
        if ended and op.kind not in _AFTER_END:
            op.refuse(f"stands behind a {ended}, which ends a network")
        return step(self, op)

    # Layers

    def _conv(self, op: Operator) -> _Value:
        value, weight = self._map(op, op.operands[0]), op.floats(1)
        if weight.ndim != 4 or 0 in weight.shape:
            op.refuse(f"has a weight of {list(weight.shape)}; four dimensions are needed")
        held, kernel = op.attributes, (int(weight.shape[2]), int(weight.shape[3]))
        if held.get("group", 1) != 1:
            op.refuse(f"works in {held['group']} groups, which no target's integers are checked for")
        if list(held.get("kernel_shape", kernel)) != list(kernel):
            op.refuse(f"says kernel_shape {held['kernel_shape']}, and has a weight of {by(kernel)}")
        window = window_of(op, kernel, (value.dims[2], value.dims[3]))
        bias = np.zeros(len(weight)) if op.given(2) is None else op.floats(2)
        if bias.shape != weight.shape[:1]:
            op.refuse(f"has a bias of {list(bias.shape)} for {len(weight)} channels")
        if value.pooled and (kernel != (1, 1) or any(window.pads)):
            op.refuse("convolves what the global pool left with more than one pixel")
        if value.pooled:
            self._note_order(op, value)
        return self._convolved(op, value, weight, bias, (1, 1) if value.pooled else window.strides, window.pads)

    def _linear(self, op: Operator) -> _Value:
        """Gemm or MatMul."""
        value, held = op.operands[0], op.attributes
        if not isinstance(value, _Value) or isinstance(op.operands[1], _Value) or held.get("transA", 0):
            op.refuse("does not multiply a vector of features by constant weights")
        weight = op.floats(1)
        weight = weight if held.get("alpha", 1.0) == 1 else weight.astype(np.float64) * held["alpha"]
        weight = weight if held.get("transB", 0) else weight.T  # (out, in)
        if weight.ndim != 2 or 0 in weight.shape or math.prod(value.dims[:-1]) != self._batch or value.dims[-1] != weight.shape[1]:
            op.refuse(f"multiplies {list(value.dims)} by weights of {list(weight.T.shape)}")
        bias = np.zeros(len(weight))
        if op.given(2) is not None:
            given = op.floats(2).astype(np.float64) * held.get("beta", 1.0)
            if given.size not in (1, len(weight)):
                op.refuse(f"adds {list(given.shape)} to {len(weight)} outputs")
            bias = bias + given.reshape(-1)
        channels, height, width = self._draft.layers[value.made].size
        if value.pooled:
            self._note_order(op, value)
            height = width = 1
        if value.by_channel:
            kernels = weight.reshape(len(weight), channels, height, width)
        else:
            kernels = weight.reshape(len(weight), height, width, channels).transpose(0, 3, 1, 2)
        self._count(op, kernels, [weight])
        made = self._convolved(op, value, kernels, bias, (1, 1), NO_PADS)
        return replace(made, dims=(*value.dims[:-1], len(weight)), by_channel=value.by_channel)

    def _convolved(
        self, op: Operator, value: _Value, weight: NDArray[Any], bias: NDArray[Any], strides: Pair, pads: Pads, relu: bool = False
    ) -> _Value:
        """A convolution. What was pending before it goes into its weights, where the border that it pads allows that."""
        if value.made != INPUT and value.shift is not None and value.shift.any() and any((*pads, *value.pads)):
            value = self._only_padded(op, value)
        source, shift = self._draft.layers[value.made], np.asarray(bias, np.float64)
        if weight.shape[1] != source.size[0]:
            op.refuse(f"takes {weight.shape[1]} channels where {source.size[0]} arrive")
        gain = value.scale
        if value.made == INPUT:
            self._see_pixels(op, value)
            gain = None
        elif value.shift is not None:
            shift = shift + np.tensordot(weight.sum(axis=(2, 3), dtype=np.float64), value.shift, 1)
        pads = _sum(pads, value.pads)
        kernel = (int(weight.shape[2]), int(weight.shape[3]))
        sides = [
            (side + before + after - window) // step + 1
            for side, before, after, window, step in zip(source.size[1:], pads[:2], pads[2:], kernel, strides, strict=True)
        ]
        if min(sides) < 1:
            op.refuse(f"has a kernel of {by(kernel)} on a map of {by(source.size[1:])}")
        count = len(weight)
        size = (count, sides[0], sides[1])
        made = self._draft.add(
            DraftLayer(
                *("Conv", (value.made,), size, op.wish, kernel, strides, pads, relu),
                weight=weight,
                gain=gain,
                scale=np.ones(count),
                shift=shift,
            )
        )
        return _Value(made, (self._batch, count, *((1, 1) if value.pooled else sides)), pooled=value.pooled)

    def _scaled(self, op: Operator, value: _Value, scale: Doubles, shift: Doubles) -> _Value:
        """`value` times `scale` plus `shift`, both (C,). Into the convolution that made it, if nothing is in between."""
        if any(value.pads) and shift.any():
            op.refuse("adds to a map that was padded before")
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            op.refuse("has constants that are not finite")
        layer = self._draft.layers[value.made]
        commutes = not layer.relu or (not shift.any() and bool((scale > 0).all()))
        if layer.kind == "Conv" and value.scale is None and value.shift is None and commutes:
            with np.errstate(all="ignore"):  # what is not finite then is refused with the weights
                folded = replace(layer, scale=layer.scale * scale, shift=layer.shift * scale + shift)
            return replace(value, made=self._draft.add(folded))
        with np.errstate(all="ignore"):
            old_scale = 1.0 if value.scale is None else value.scale
            old_shift = 0.0 if value.shift is None else value.shift
            return replace(value, scale=old_scale * scale, shift=old_shift * scale + shift)

    def _normalized(self, op: Operator) -> _Value:
        """BatchNormalization: y = (x - mean) / sqrt(var + epsilon) * scale + bias (Ioffe and Szegedy, arXiv:1502.03167)."""
        value, held = self._map(op, op.operands[0]), op.attributes
        if held.get("training_mode", 0) or not held.get("spatial", 1):
            op.refuse("normalizes by the batch itself, or pixel by pixel: export the network after `model.eval()`")
        gamma, beta, mean, var = (op.floats(place).astype(np.float64) for place in range(1, 5))
        if {operand.shape for operand in (gamma, beta, mean, var)} != {(self._draft.layers[value.made].size[0],)}:
            op.refuse(f"has constants of {gamma.shape} for {self._draft.layers[value.made].size[0]} channels")
        with np.errstate(all="ignore"):
            scale = gamma / np.sqrt(var + held.get("epsilon", 1e-5))
        return self._scaled(op, value, scale, beta - mean * scale)

    def _arithmetic(self, op: Operator) -> _Value:
        """Add, Sub, Mul, Div and Sum, of two values or of a value and a constant."""
        if op.kind == "Sum" and len(op.operands) != 2:
            total = op.operands[0]
            for operand in op.operands[1:]:
                total = self._arithmetic(replace(op, operands=[total, operand]))
            return self._value(op, total)
        one, other = op.operands
        if isinstance(one, _Value) and isinstance(other, _Value):
            return self._added(op, one, other)
        first = isinstance(one, _Value)
        value, constant = (one, other) if first else (other, one)
        if constant.dtype.name not in FLOATS:
            op.refuse(f"computes in {constant.dtype.name}, not in floats")
        held = self._by_channel(op, value, constant)
        ones, zeros = np.ones_like(held), np.zeros_like(held)
        match op.kind:
            case "Add" | "Sum":
                return self._scaled(op, value, ones, held)
            case "Sub":
                return self._scaled(op, value, ones if first else -ones, -held if first else held)
            case "Mul":
                return self._scaled(op, value, held, zeros)
        if not first or not held.all():
            op.refuse("divides a constant by a map" if not first else "divides by zero")
        return self._scaled(op, value, 1 / held, zeros)

    def _added(self, op: Operator, one: _Value, other: _Value) -> _Value:
        if op.kind not in ("Add", "Sum"):
            op.refuse("combines two maps otherwise than by adding them")
        if one.dims != other.dims or one.by_channel != other.by_channel or one.pooled != other.pooled:
            op.refuse(f"adds {list(one.dims)} and {list(other.dims)}, which differ")
        if one.made == other.made != INPUT and not any((*one.pads, *other.pads)):
            ones, zeros = np.ones(self._draft.layers[one.made].size[0]), np.zeros(self._draft.layers[one.made].size[0])
            scale = sum((ones if value.scale is None else value.scale for value in (one, other)), zeros)
            shift = sum((zeros if value.shift is None else value.shift for value in (one, other)), zeros)
            return self._scaled(op, replace(one, scale=None, shift=None), scale, shift)
        first, second = self._bare(op, one), self._bare(op, other)
        size = self._draft.layers[first.made].size
        if size != self._draft.layers[second.made].size:
            op.refuse(f"adds means of maps of {by(size)} and {by(self._draft.layers[second.made].size)}")
        return replace(first, made=self._draft.add(DraftLayer("Add", (first.made, second.made), size, op.wish)))

    def _relu(self, op: Operator) -> _Value:
        value, held = self._value(op, op.operands[0]), op.attributes
        if op.kind == "Clip":
            bounds = [held.get(key) for key in ("min", "max")]
            for place in (0, 1):
                given = op.given(place + 1)
                bounds[place] = float(given.reshape(-1)[0]) if given is not None and given.size == 1 else bounds[place]
            low, high = bounds
            if low != 0 or (high is not None and high < np.finfo(np.float16).max):
                op.refuse(f"clips between {low} and {high}; a plain ReLU is needed")
        if value.pooled and self._draft.layers[value.made].size[1:] != (1, 1):
            op.refuse("stands behind the global average pool, where only linear layers can be: it cannot go before it")
        shifted = value.shift is not None and bool(value.shift.any())
        if value.made == INPUT or shifted or (value.scale is not None and not (value.scale > 0).all()):
            value = self._only_padded(op, value)
        return replace(value, made=self._draft.rectify(value.made))

    def _max_pool(self, op: Operator) -> _Value:
        value, kernel = self._map(op, op.operands[0]), pool_kernel(op)
        if value.made == INPUT or (value.scale is not None and not (value.scale > 0).all()):
            value = self._only_padded(op, value)
        if any(value.pads) and (value.shift is not None or self._draft.rectify(value.made) != value.made):
            op.refuse("takes a map padded with zeros, which may be its largest values")
        window = window_of(op, kernel, (value.dims[2], value.dims[3]))
        if value.pooled:
            op.refuse("stands behind the global average pool")
        channels, pads = self._draft.layers[value.made].size[0], _sum(window.pads, value.pads)
        if any(pad >= kernel[place % 2] for place, pad in enumerate(pads)):
            op.refuse(f"has pads {list(pads)}, which are no smaller than its window of {by(kernel)}")
        layer = DraftLayer("MaxPool", (value.made,), (channels, *window.size), op.wish, kernel, window.strides, pads)
        return replace(value, made=self._draft.add(layer), dims=(self._batch, channels, *window.size), pads=NO_PADS)

    def _average_pool(self, op: Operator) -> _Value:
        value, kernel = self._map(op, op.operands[0]), pool_kernel(op)
        channels, *whole = self._draft.layers[value.made].size
        window = window_of(op, kernel, (value.dims[2], value.dims[3]))
        counts = window.averaged(padding_counts=bool(op.attributes.get("count_include_pad", 0)))
        if {0} in counts:
            op.refuse("averages nothing but padding")
        if value.pooled or (window.size == (1, 1) and counts == [{side} for side in whole] and not any(value.pads)):
            return self._global_pool(replace(op, operands=[value]))
        if any(len(one) != 1 for one in counts):
            least, most = (by([extreme(one) for one in counts]) for extreme in (min, max))
            op.refuse(f"averages {most} pixels, but {least} at the border: no convolution divides by two numbers")
        divisor = math.prod(count for one in counts for count in one)
        self._diagonal_fits(op, channels, math.prod(kernel))
        self._note(op, f"becomes a {by(kernel)} convolution from each channel to itself")
        weight = np.zeros((channels, channels, *kernel), np.float32)
        weight[np.arange(channels), np.arange(channels)] = 1
        made = self._convolved(op, value, weight, np.zeros(channels), window.strides, window.pads)
        return self._scaled(op, made, np.full(channels, 1 / divisor), np.zeros(channels))

    def _global_pool(self, op: Operator) -> _Value:
        value = self._map(op, op.operands[0])
        if any(value.pads):
            value = self._bare(op, value)
        return replace(value, dims=(self._batch, value.dims[1], 1, 1), pooled=True)

    def _mean(self, op: Operator) -> _Value:
        """ReduceMean over height and width."""
        value, held = self._value(op, op.operands[0]), op.attributes
        axes = op.integers(1) or held.get("axes", [])
        channels, *_ = self._draft.layers[value.made].size
        over = sorted(int(axis) % len(value.dims) for axis in axes) if value.dims else []
        spatial = [2, 3] if value.by_channel else [1, 2]
        if over != spatial or value.dims != self._dims(value):
            op.refuse(f"takes the mean over the axes {axes} of {list(value.dims)}; height and width are needed")
        if any(value.pads):
            value = self._bare(op, value)
        kept = (1, 1) if held.get("keepdims", 1) else ()
        dims = (self._batch, channels, *kept) if value.by_channel else (self._batch, *kept, channels)
        return replace(value, dims=dims, pooled=True)

    def _joined(self, op: Operator) -> _Value:
        values = [self._value(op, operand) for operand in op.operands]
        first, axis = values[0], op.attributes.get("axis", 1)
        place = 1 if first.by_channel else 3
        if any(v.dims != self._dims(v) or v.by_channel != first.by_channel or v.pooled for v in values) or axis % 4 != place:
            op.refuse(f"does not join maps along their channels (axis {axis})")
        if len(values) == 1:
            return first
        inputs = tuple(self._settled(op, value) for value in values)
        sizes = [self._draft.layers[name].size for name in inputs]
        if len({size[1:] for size in sizes}) != 1:
            op.refuse(f"joins maps of {' and '.join(by(size[1:]) for size in sizes)} px")
        channels = sum(size[0] for size in sizes)
        made = self._draft.add(DraftLayer("Concat", inputs, (channels, *sizes[0][1:]), op.wish))
        return self._fresh(made, first.by_channel)

    # Forms

    def _same(self, op: Operator) -> _Value:
        """Identity, Dropout, Cast."""
        value, held = self._value(op, op.operands[0]), op.attributes
        if (
            op.kind == "Cast"
            and held["to"].name not in FLOATS
            and (value.made != INPUT or not self._byte_input or value.scale is not None)
        ):
            op.refuse(f"rounds to {held['to'].name}")
        training = op.given(2)
        if training is not None and training.any():
            op.refuse("drops at random (training_mode): export the network after `model.eval()`")
        return value

    def _cast_like(self, op: Operator) -> NDArray[Any] | _Value:
        """CastLike, where one of the two is a map: to floats, and only from what floats hold."""
        given: NDArray[Any] | _Value = op.operands[0]
        like = op.operands[1]
        pixels = isinstance(like, _Value) and like.made == INPUT and self._byte_input
        if pixels or (isinstance(like, np.ndarray) and like.dtype.name not in FLOATS):
            op.refuse("may round to integers")
        return given.astype(np.float32) if isinstance(given, np.ndarray) and given.dtype.name not in FLOATS else given

    def _padded(self, op: Operator) -> _Value:
        value, held = self._map(op, op.operands[0]), op.attributes
        pads, axes = held.get("pads") or op.integers(1) or [], op.integers(3)
        fill = op.given(2)
        if axes is not None and len(pads) == 2 * len(axes):
            given, pads = pads, [0] * 8
            for place, axis in enumerate(axes):
                pads[axis % 4], pads[axis % 4 + 4] = given[place], given[place + len(axes)]
        plain = held.get("mode", "constant") == "constant" and not (held.get("value", 0.0) if fill is None else fill.any())
        if len(pads) != 8 or any(pads[place] for place in (0, 1, 4, 5)) or min(pads) < 0 or not plain or value.pooled:
            op.refuse("does not put zeros around a map")
        padded = replace(value, pads=_sum(value.pads, (pads[2], pads[3], pads[6], pads[7])))
        return replace(padded, dims=self._dims(padded))

    def _reshape(self, op: Operator) -> _Value:
        """Reshape, Flatten, Squeeze, Unsqueeze: the elements stay where they are."""
        value, held = self._value(op, op.operands[0]), op.attributes
        given = op.integers(1)
        if any(value.pads):
            value = self._bare(op, value)
        try:
            match op.kind:
                case "Flatten":
                    dims: tuple[int, ...] = flattened(value.dims, held.get("axis", 1))
                case "Squeeze":
                    dims = squeezed(value.dims, held.get("axes", given))
                case "Unsqueeze":
                    dims = unsqueezed(value.dims, held.get("axes", given or []))
                case _:
                    dims = reshaped(value.dims, held.get("shape", given or []), allow_zero=bool(held.get("allowzero", 0)))
        except ValueError as err:
            op.refuse(f"cannot be computed: {err}")
        return replace(value, dims=dims)

    def _transpose(self, op: Operator) -> _Value:
        value = self._value(op, op.operands[0])
        rank = len(value.dims)
        perm = [int(place) for place in op.attributes.get("perm", range(rank)[::-1])]
        if sorted(perm) != list(range(rank)):
            op.refuse(f"has perm {perm} for {rank} dimensions")
        dims, moved = tuple(value.dims[place] for place in perm), [place for place in perm if value.dims[place] != 1]
        if moved == sorted(moved):
            return replace(value, dims=dims)
        if value.dims != self._dims(value) or perm != ([0, 2, 3, 1] if value.by_channel else [0, 3, 1, 2]):
            op.refuse(f"brings the axes of {list(value.dims)} into the order {perm}; only the channels may change place")
        return replace(value, dims=dims, by_channel=not value.by_channel)

    def _shape(self, op: Operator) -> NDArray[Any]:
        return shape_of(self._value(op, op.operands[0]).dims, op.attributes)

    def _ended(self, op: Operator) -> _Value:
        """Softmax, LogSoftmax, Sigmoid: left out."""
        value = self._value(op, op.operands[0])
        classes = self._draft.layers[value.made].size[0]
        places = [place for place, side in enumerate(value.dims) if place and side != 1]
        axis = op.attributes.get("axis", 1 if self._file.opset < 13 else -1)
        wrong = op.kind != "Sigmoid" and self._file.opset >= 13 and classes > 1 and places != [axis % len(value.dims)]
        if math.prod(value.dims) != self._batch * classes or len(places) > 1 or wrong:
            op.refuse(f"does not work on the scores of the classes: axis {axis} of {list(value.dims)}")
        back = "apply it to the logits" if op.kind == "LogSoftmax" else f"--{op.kind.lower()} puts it back"
        self._note(op, f"at the end is left out: files give logits ({back})")
        return replace(value, end=op.kind)

    # Parts

    def _value(self, op: Operator, operand: Any) -> _Value:
        if not isinstance(operand, _Value):
            op.refuse("takes a constant where a map is needed")
        return operand

    def _map(self, op: Operator, operand: Any) -> _Value:
        value = self._value(op, operand)
        if value.dims != self._dims(value) or not value.by_channel:
            layout = "" if value.by_channel else ", channels last"
            op.refuse(f"takes {list(value.dims)}{layout}; a map of (N, C, H, W) is needed")
        return value

    def _dims(self, value: _Value) -> tuple[int, ...]:
        """What the dimensions of a map with these values are."""
        channels, height, width = self._draft.layers[value.made].size
        top, left, bottom, right = value.pads
        sides = (1, 1) if value.pooled else (height + top + bottom, width + left + right)
        return (self._batch, channels, *sides) if value.by_channel else (self._batch, *sides, channels)

    def _fresh(self, made: str, by_channel: bool = True) -> _Value:
        value = _Value(made, (), by_channel)
        return replace(value, dims=self._dims(value))

    def _by_channel(self, op: Operator, value: _Value, constant: NDArray[Any]) -> Doubles:
        """A constant operand as one number for each channel, (C,)."""
        channels, height, width = self._draft.layers[value.made].size
        if constant.size == 1:
            return np.full(channels, float(constant.reshape(-1)[0]))
        if value.dims == self._dims(value):
            place = 1 if value.by_channel else 3
        elif math.prod(value.dims) == self._batch * channels and (value.pooled or (height, width) == (1, 1)):
            place = next((place for place, side in enumerate(value.dims) if place and side == channels), len(value.dims) - 1)
        else:
            place = -1
        shape = (1,) * (len(value.dims) - constant.ndim) + constant.shape
        if place < 0 or constant.ndim > len(value.dims) or constant.size != channels or shape[place] != channels:
            op.refuse(f"has a constant of {list(constant.shape)} for {list(value.dims)}, which is not one number a channel")
        return constant.reshape(-1).astype(np.float64)

    def _see_pixels(self, op: Operator, value: _Value) -> None:
        """Keeps what the file does to its pixels: all that read them must want the same."""
        channels = self._draft.layers[INPUT].size[0]
        front = (
            np.ones(channels) if value.scale is None else value.scale,
            np.zeros(channels) if value.shift is None else value.shift,
        )
        if self._front is not None and not all(np.array_equal(a, b) for a, b in zip(self._front, front, strict=True)):
            op.refuse("takes the pixels otherwise normalized than another operator does")
        self._front = front

    def _normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """scale * x + shift as (x - mean) / std."""
        scale, shift = self._front or (np.ones(1), np.zeros(1))
        if (scale <= 0).any():
            raise BadInput(f"`{self._name}` multiplies its pixels by `{scale.min():g}`: a positive factor is needed")
        return tuple(float(v) for v in 0 - shift / scale), tuple(float(v) for v in 1 / scale)

    def _settled(self, op: Operator, value: _Value) -> str:
        """The name of a layer that makes just this value: what is pending becomes a 1x1 convolution, and so do bare pixels."""
        if value.made != INPUT and value.scale is None and value.shift is None and not any(value.pads):
            return value.made
        channels = self._draft.layers[value.made].size[0]
        self._diagonal_fits(op, channels, 1)
        if value.made != INPUT:
            self._note(
                op, "has a 1x1 convolution of its own before it, for a scale, shift or padding that fits into no other layer"
            )
        eye = np.eye(channels, dtype=np.float32)[:, :, None, None]
        return self._convolved(op, value, eye, np.zeros(channels), (1, 1), NO_PADS).made

    def _bare(self, op: Operator, value: _Value) -> _Value:
        """The same value, with nothing pending."""
        return replace(value, made=self._settled(op, value), scale=None, shift=None, pads=NO_PADS)

    def _only_padded(self, op: Operator, value: _Value) -> _Value:
        """The same value, with nothing pending but zeros around it."""
        return replace(self._bare(op, replace(value, pads=NO_PADS)), pads=value.pads)

    def _diagonal_fits(self, op: Operator, channels: int, area: int) -> None:
        if channels * channels * area > MAX_AVERAGING:
            op.refuse(f"would need a convolution of {channels} channels to {channels}, which is too large")

    def _note(self, op: Operator, what: str) -> None:
        self._notes.append(f"{op} {what}")

    def _note_order(self, op: Operator, value: _Value) -> None:
        if self._draft.layers[value.made].size[1:] != (1, 1):
            self._note(op, "becomes a 1x1 convolution before the global pool, which changes nothing: it is linear")

    def _refuse_foreign(self, op: Operator) -> NoReturn:
        hint = None
        if op.kind in _INTEGER_FILE:
            hint = "give the float model; an int8 file is a product"
        domain = f"{op.node.domain}:" if op.node.domain not in ("", "ai.onnx") else ""
        raise BadInput(
            f"`{self._name}` cannot be read: {domain}{op} is not among the operators that are ({', '.join(_STEPS)})",
            hint=hint,
        )


def _checked_nodes(file: OnnxFile, name: str) -> list[Any]:
    """The nodes that the output depends on, in an order in which they can be computed."""
    opset = file.opset
    if opset < OLDEST_OPSET:
        raise BadInput(f"`{name}` has opset `{opset}`; {OLDEST_OPSET} and later are read")
    inputs = [entry.name for entry in file.graph.input if entry.name not in file.stored]
    if len(inputs) != 1 or len(file.graph.output) != 1:
        raise BadInput(f"`{name}` has `{len(inputs)}` inputs and `{len(file.graph.output)}` outputs; one of each is needed")
    needed, nodes = {file.graph.output[0].name}, []
    for node in reversed(file.sorted_nodes):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    if len(nodes) > MAX_NODES:
        raise BadInput(f"`{name}` has `{len(nodes)}` operators; at most {MAX_NODES} are read")
    return nodes[::-1]


def _sum(one: Pads, other: Pads) -> Pads:
    top, left, bottom, right = (a + b for a, b in zip(one, other, strict=True))
    return top, left, bottom, right


_STEPS: Mapping[str, Callable[[_Reading, Operator], NDArray[Any] | _Value]] = {
    "Conv": _Reading._conv,
    "BatchNormalization": _Reading._normalized,
    "Relu": _Reading._relu,
    "Clip": _Reading._relu,
    "MaxPool": _Reading._max_pool,
    "AveragePool": _Reading._average_pool,
    "Concat": _Reading._joined,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Sum"), _Reading._arithmetic),
    "GlobalAveragePool": _Reading._global_pool,
    "ReduceMean": _Reading._mean,
    **dict.fromkeys(("Gemm", "MatMul"), _Reading._linear),
    "Pad": _Reading._padded,
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _Reading._reshape),
    "Transpose": _Reading._transpose,
    "Shape": _Reading._shape,
    "CastLike": _Reading._cast_like,
    **dict.fromkeys(("Identity", "Dropout", "Cast"), _Reading._same),
    **dict.fromkeys(_ENDS, _Reading._ended),
}
_AFTER_END = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Shape")
