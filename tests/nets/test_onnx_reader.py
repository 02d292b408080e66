"""ONNX files of several exporters' manners, drawn here with `onnx.helper`, and the 2018 file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from squeeze_export.core import CAFFE, TORCHVISION, Preprocess
from squeeze_export.errors import BadInput
from squeeze_export.formats.onnx import parsed
from squeeze_export.graph.build import build_graph, ceil_pads
from squeeze_export.graph.run import FloatRunner
from squeeze_export.nets.architecture import FAMILY, Architecture, Fire, tensor_shapes
from squeeze_export.nets.assumptions import PIXELS
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.nets.onnx_reader import read_onnx
from squeeze_export.pipeline import open_network

SIDE_PX = 43  # k3: 43 -> 21 -> 10 -> 5; k7: 43 -> 19 -> 9 -> 4
PLAIN = Architecture("squeezenet_custom", 6, 3, (Fire(2, 4, 4), Fire(3, 5, 3), Fire(2, 6, 4)), (1,), 5)
SIMPLE = replace(PLAIN, fires=(Fire(2, 4, 4), Fire(3, 4, 4, "simple"), Fire(2, 6, 4)))
RICH = replace(PLAIN, fires=(Fire(2, 4, 4, "complex"), Fire(3, 4, 4, "simple"), Fire(2, 6, 4, "complex")))


def weights(arch: Architecture) -> dict[str, NDArray[np.float32]]:
    draw = np.random.default_rng(0)
    return {
        key: (draw.normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)
        for key, shape in tensor_shapes(arch).items()
    }


@dataclass
class Drawing:
    """A SqueezeNet as some exporter would write it.

    Attributes:
        pools: `pads` (explicit), `ceil` (ceil_mode=1) or `floor` (neither).
        constants: weights in Constant nodes instead of initializers.
        swapped: modules (by position) whose Concat takes expand3x3 first.
        tail: operators after the final pool.
        cast: the weights are fp16, and a Cast widens each.
    """

    arch: Architecture = PLAIN
    opset: int = 17
    dtype: type = np.float32
    side: int | str = SIDE_PX
    pools: str = "pads"
    constants: bool = False
    swapped: tuple[int, ...] = ()
    final: str = "GlobalAveragePool"
    tail: tuple[str, ...] = ("Flatten",)
    cast: bool = False
    caffe_names: bool = False
    nodes: list[Any] = field(default_factory=list)
    initializers: list[Any] = field(default_factory=list)

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        made = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [made], name=f"n{len(self.nodes)}", **attributes))
        return made

    def store(self, name: str, values: NDArray[Any]) -> str:
        tensor = numpy_helper.from_array(values, name)
        if self.constants:
            return self.add("Constant", [], value=tensor)
        self.initializers.append(tensor)
        return name

    def conv(self, key: str, source: str, tensors: Mapping[str, NDArray[np.float32]], *, relu: bool = True, **kw: Any) -> str:
        stored = np.float16 if self.cast else self.dtype
        names = [f"{key}.weight", f"{key}.bias"]
        if self.caffe_names:
            names = [f"{key.replace('features.', 'fire').replace('.squeeze', '/squeeze1x1')}_{kind}_0" for kind in "wb"]
        operands = [
            self.store(name, tensors[f"{key}.{part}"].astype(stored)) for name, part in zip(names, ("weight", "bias"), strict=True)
        ]
        if self.cast:
            operands = [self.add("Cast", [operand], to=TensorProto.FLOAT) for operand in operands]
        made = self.add("Conv", [source, *operands], **kw)
        return self.add("Relu", [made]) if relu else made

    def model(self, tensors: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
        arch, current = self.arch, "image"
        side = self.side if isinstance(self.side, int) else SIDE_PX
        kind = TensorProto.FLOAT16 if self.dtype is np.float16 else TensorProto.FLOAT
        position = -1
        for layer in arch.layers():
            key = f"features.{layer.index}"
            if layer.kind == "conv1":
                current = self.conv(key, current, tensors, strides=[2, 2])
                side = (side - arch.conv1_kernel) // 2 + 1
            elif layer.kind == "pool":
                how: dict[str, Any] = {"pads": list(ceil_pads(side, side))} if self.pools == "pads" else {}
                if self.pools == "ceil":
                    how["ceil_mode"] = 1
                current = self.add("MaxPool", [current], kernel_shape=[3, 3], strides=[2, 2], **how)
                side //= 2
            elif layer.fire is not None:
                position, source = position + 1, current
                squeezed = self.conv(f"{key}.squeeze", source, tensors, kernel_shape=[1, 1])
                one = self.conv(f"{key}.expand1x1", squeezed, tensors, kernel_shape=[1, 1])
                three = self.conv(f"{key}.expand3x3", squeezed, tensors, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
                current = self.add("Concat", [three, one] if position in self.swapped else [one, three], axis=1)
                if layer.fire.bypass == "complex":
                    source = self.conv(f"{key}.bypass", source, tensors, relu=False)
                if layer.fire.bypass != "none":
                    operands = [current, source] if position % 2 else [source, current]
                    current = self.add("Add", operands)
        current = self.add("Dropout", [current])
        current = self.conv("classifier.1", current, tensors, pads=[arch.conv10_pad] * 4)
        side += 2 * arch.conv10_pad
        if self.final == "AveragePool":
            current = self.add("AveragePool", [current], kernel_shape=[side, side])
        elif self.final == "ReduceMean" and self.opset >= 18:
            self.initializers.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
            current = self.add("ReduceMean", [current, "axes"], keepdims=1)
        elif self.final == "ReduceMean":
            current = self.add("ReduceMean", [current], axes=[2, 3], keepdims=1)
        else:
            current = self.add("GlobalAveragePool", [current])
        for operator in self.tail:
            current = self.after_pool(operator, current)
        dims: list[Any] = ["N", 3, self.side, self.side]
        graph = helper.make_graph(
            self.nodes,
            "drawn",
            [helper.make_tensor_value_info("image", kind, dims)],
            [helper.make_tensor_value_info(current, kind, None)],
            self.initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def after_pool(self, operator: str, source: str) -> str:
        if operator == "Reshape":
            self.initializers.append(numpy_helper.from_array(np.array([0, -1]), "shape"))
            return self.add("Reshape", [source, "shape"])
        if operator == "Squeeze":
            return self.add("Squeeze", [source], axes=[2, 3])
        return self.add(operator, [source])


def read(model: onnx.ModelProto) -> tuple[Architecture, dict[str, NDArray[np.float32]], Preprocess]:
    return read_onnx(parsed(model.SerializeToString(), "drawn.onnx"), "drawn.onnx")[:3]


@pytest.mark.parametrize(("side", "told"), [(40, {"crop_px"}), ("side", set())])
def test_a_graph_tells_its_structure_and_at_most_the_size_of_its_pixels(side: int | str, told: set[str], tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(Drawing(side=side, pools="ceil").model(weights(PLAIN)).SerializeToString())
    found = read_checkpoint(path)
    assert found.assumptions == ()
    assert set(PIXELS) - set(found.untold) == told
    assert set(found.untold.values()) == {"torchvision's preprocessing"}


VARIANTS = {
    "opset 7, fp16, softmax": Drawing(opset=7, dtype=np.float16, tail=("Softmax",)),
    "opset 11, v1.0's conv1": Drawing(arch=replace(PLAIN, conv1_kernel=7), opset=11, final="AveragePool", tail=("Squeeze",)),
    "opset 13, Constant nodes": Drawing(opset=13, constants=True, tail=("Reshape",)),
    "opset 17, mean": Drawing(final="ReduceMean", tail=("Flatten", "Softmax")),
    "opset 21, ceil mode, symbolic size": Drawing(opset=21, pools="ceil", side="S", final="ReduceMean"),
    "opset 21, ceil mode": Drawing(opset=21, pools="ceil", final="AveragePool"),
    "floor where nothing hangs over": Drawing(pools="floor", side=63),  # 63 -> 31 -> 15 -> 7
    "fp16 weights behind Casts": Drawing(cast=True),
    "expand3x3 first": Drawing(swapped=(0, 2)),
    "simple bypass": Drawing(arch=SIMPLE),
    "simple bypass, all expand3x3 first": Drawing(
        arch=replace(SIMPLE, fires=(Fire(2, 4, 4), *SIMPLE.fires[1:])), swapped=(0, 1, 2)
    ),
    "complex bypass": Drawing(arch=RICH),
    "complex bypass, swapped": Drawing(arch=RICH, swapped=(0, 1)),
    "conv10 padded": Drawing(arch=replace(PLAIN, conv10_pad=1), final="AveragePool"),
    "identities at the end": Drawing(tail=("Identity", "Flatten", "Identity")),
}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_variants_give_what_onnx_runtime_gives(name: str) -> None:
    drawing = replace(VARIANTS[name], nodes=[], initializers=[])
    model = drawing.model(weights(drawing.arch))
    arch, tensors, preprocess = read(model)
    assert arch == drawing.arch
    side = drawing.side if isinstance(drawing.side, int) else SIDE_PX
    assert preprocess == (replace(TORCHVISION, crop_px=side) if isinstance(drawing.side, int) else TORCHVISION)
    raw = Preprocess(side, side, "bilinear", "rgb", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    image = np.random.default_rng(1).integers(0, 4, (1, side, side, 3), np.uint8)
    ours = FloatRunner(build_graph(arch, tensors, raw))(image)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"image": image.transpose(0, 3, 1, 2).astype(drawing.dtype)})[0].reshape(1, -1)
    if "Softmax" in drawing.tail:
        ours = np.exp(ours) / np.exp(ours).sum()
    if drawing.tail == ("Softmax",):  # opset 7 flattens before it; onnxruntime too
        assert theirs.sum() == pytest.approx(1, abs=1e-2)
    half = drawing.dtype is np.float16
    np.testing.assert_allclose(theirs, ours, rtol=2e-2 if half else 1e-3, atol=1e-2 if half else 1e-4)


def test_the_weights_come_back_exactly_and_in_torchvisions_order() -> None:
    expected = weights(RICH)
    _, tensors, _ = read(Drawing(arch=RICH).model(expected))
    assert list(tensors) == list(tensor_shapes(RICH))
    assert all(np.array_equal(tensors[key], expected[key]) for key in expected)
    _, halves, _ = read(Drawing(dtype=np.float16).model(weights(PLAIN)))
    assert all(np.array_equal(halves[key], value.astype(np.float16)) for key, value in weights(PLAIN).items())
    assert {tensor.dtype for tensor in halves.values()} == {np.dtype(np.float32)}


def test_a_missing_bias_is_zero() -> None:
    model = Drawing().model(weights(PLAIN))
    del model.graph.node[0].input[2]
    assert not read(model)[1]["features.0.bias"].any()


@pytest.mark.parametrize("name", ["squeezenet1_0", "squeezenet1_0_complex_bypass"])
def test_the_family_is_named(name: str) -> None:
    arch = replace(FAMILY[name], class_count=4)
    assert read(Drawing(arch=arch, side=227).model(weights(arch)))[0] == arch


def test_nodes_in_any_order_are_read() -> None:
    model = Drawing(arch=RICH).model(weights(RICH))
    expected = read(model)
    shuffle(model)
    arch, tensors, preprocess = read(model)
    assert (arch, preprocess) == (expected[0], expected[2])
    assert all(np.array_equal(tensors[key], expected[1][key]) for key in expected[1])


def test_caffe_names_bring_caffes_preprocessing() -> None:
    assert read(Drawing(caffe_names=True, side="S", pools="ceil").model(weights(PLAIN)))[2] == CAFFE
    model = Drawing(side="S", pools="ceil").model(weights(PLAIN))
    model.producer_name = "onnx-caffe2"
    assert read(model)[2] == CAFFE


def test_the_input_size_of_a_caffe_file_is_its_own() -> None:
    assert read(Drawing(caffe_names=True).model(weights(PLAIN)))[2] == replace(CAFFE, crop_px=SIDE_PX)


def test_a_large_fixed_input_raises_the_resize_too() -> None:
    preprocess = read(Drawing(side=299).model(weights(PLAIN)))[2]
    assert (preprocess.resize_px, preprocess.crop_px) == (299, 299)


def set_attribute(node: onnx.NodeProto, **values: Any) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name not in values]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(key, value) for key, value in values.items())])


def node_of(model: onnx.ModelProto, kind: str, which: int = 0) -> onnx.NodeProto:
    return [node for node in model.graph.node if node.op_type == kind][which]


def initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def put_tensor(name: str, values: NDArray[Any]) -> Callable[[onnx.ModelProto], None]:
    return lambda m: initializer(m, name).CopyFrom(numpy_helper.from_array(values, name))


def rename(kind: str, new: str, which: int = 0, domain: str = "") -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        node = node_of(model, kind, which)
        node.op_type, node.domain = new, domain

    return change


def on(kind: str, which: int = 0, **values: Any) -> Callable[[onnx.ModelProto], None]:
    return lambda model: set_attribute(node_of(model, kind, which), **values)


def rewire(kind: str, which: int, position: int, source: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        node_of(model, kind, which).input[position] = source

    return change


def drop(kind: str, which: int = 0) -> Callable[[onnx.ModelProto], None]:
    """Takes a one-input node out and leads its readers to its input."""

    def change(model: onnx.ModelProto) -> None:
        gone = node_of(model, kind, which)
        for node in model.graph.node:
            for position, source in enumerate(node.input):
                if source == gone.output[0]:
                    node.input[position] = gone.input[0]
        model.graph.node.remove(gone)

    return change


def second_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("t3", TensorProto.FLOAT, None))


def input_dims(*dims: Any) -> Callable[[onnx.ModelProto], None]:
    value = helper.make_tensor_value_info("image", TensorProto.FLOAT, list(dims))
    return lambda model: model.graph.input[0].CopyFrom(value)


def external(model: onnx.ModelProto) -> None:
    tensor = initializer(model, "features.0.weight")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def shuffle(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))


def short_data(model: onnx.ModelProto) -> None:
    tensor = initializer(model, "features.0.weight")
    tensor.raw_data = tensor.raw_data[:-4]


def huge_dims(model: onnx.ModelProto) -> None:
    tensor = initializer(model, "features.0.weight")
    tensor.dims[0] = 2**40


def old_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 6


def computed_weight(model: onnx.ModelProto) -> None:
    node_of(model, "Conv", 1).input[1] = "t2"


def second_pool(model: onnx.ModelProto) -> None:
    first = node_of(model, "MaxPool")
    again = helper.make_node("MaxPool", [first.output[0]], ["again"], name="again", kernel_shape=[3, 3], strides=[2, 2])
    set_attribute(again, ceil_mode=1)
    at = list(model.graph.node).index(first)
    for node in model.graph.node:
        node.input[:] = ["again" if source == first.output[0] else source for source in node.input]
    model.graph.node.insert(at + 1, again)


# What is done to a good file, and what the refusal must say.
BROKEN: dict[str, tuple[Drawing, Callable[[onnx.ModelProto], None], str]] = {
    "foreign operator": (Drawing(), rename("Relu", "Sigmoid"), "Sigmoid `n1` is an operator that SqueezeNet lacks"),
    "the first of two": (
        Drawing(),
        lambda m: (rename("Relu", "Tanh", 3)(m), rename("Relu", "Elu", 1)(m))[0],
        "Elu `n4` is an operator",
    ),
    "foreign domain": (Drawing(), rename("Conv", "Conv", 0, "com.example"), "Conv `n0` is an operator"),
    "known operator at the wrong place": (Drawing(), rename("Relu", "Softmax", 2), "Softmax `n6` stands where Relu is needed"),
    "no Relu": (Drawing(), drop("Relu"), "Conv `n0` stands where"),
    "dilated": (Drawing(), on("Conv", 3, dilations=[2, 2]), r"Conv `n7` has dilations \[2, 2\]"),
    "grouped": (Drawing(), on("Conv", 3, group=3), "Conv `n7` works in groups"),
    "conv1 of stride 1": (Drawing(), on("Conv", 0, strides=[1, 1]), r"Conv `n0` has strides \[1, 1\]; \[2, 2\]"),
    "padded conv1": (Drawing(), on("Conv", 0, pads=[1, 1, 1, 1]), r"Conv `n0` has pads \[1, 1, 1, 1\]; 0 on all sides"),
    "lopsided pads": (Drawing(), on("Conv", 3, pads=[0, 0, 1, 1]), "Conv `n7` has pads"),
    "unpadded expand3x3": (Drawing(), on("Conv", 3, pads=[0, 0, 0, 0]), "Concat `n9` does not join a 1x1"),
    "automatic pads": (Drawing(), on("Conv", 3, auto_pad="SAME_UPPER", pads=[0] * 4), "has unsupported padding"),
    "pads that are no integers": (Drawing(), on("Conv", 3, pads=[0.5, 0.5, 0.5, 0.5]), "has unsupported padding"),
    "negative pads": (Drawing(), on("MaxPool", 1, pads=[0, 0, -1, -1]), "has unsupported padding"),
    "kernel_shape lies": (Drawing(), on("Conv", 1, kernel_shape=[3, 3]), "Conv `n3` has kernel_shape"),
    "squeeze of 3x3": (
        Drawing(),
        put_tensor("features.3.squeeze.weight", np.ones((2, 6, 3, 3), np.float32)),
        "has a kernel of 3x3",
    ),
    "oblong kernel": (Drawing(), put_tensor("features.0.weight", np.ones((6, 3, 3, 1), np.float32)), "has a kernel of 3x1"),
    "integer weights": (Drawing(), put_tensor("features.0.weight", np.ones((6, 3, 3, 3), np.int8)), "of int8"),
    "flat weights": (Drawing(), put_tensor("features.0.weight", np.ones(6, np.float32)), "not floats of 4 dimensions"),
    "short bias": (Drawing(), put_tensor("features.0.bias", np.ones(5, np.float32)), "bias of 5 values for 6"),
    "grey conv1": (Drawing(), put_tensor("features.0.weight", np.ones((6, 1, 3, 3), np.float32)), "takes 1 channels where 3"),
    "too few channels": (
        Drawing(),
        put_tensor("features.3.squeeze.weight", np.ones((2, 5, 1, 1), np.float32)),
        "takes 5 channels where 6",
    ),
    "computed weights": (Drawing(), computed_weight, "takes `t2`, which is not stored"),
    "Constant without a tensor": (
        Drawing(constants=True),
        lambda m: (node_of(m, "Constant").ClearField("attribute"), on("Constant", 0, value_float=1.0)(m))[0],
        "not floats of 4",
    ),
    "Constant of a wrong kind": (Drawing(constants=True), on("Constant", 0, value=3), "which is not stored"),
    "Concat of one kind": (Drawing(), rewire("Concat", 0, 1, "t6"), "Concat `n9` does not join a 1x1"),
    "Concat along the rows": (Drawing(), on("Concat", 0, axis=2), "Concat `n9` does not join two tensors along"),
    "expands of two inputs": (Drawing(), rewire("Conv", 3, 0, "t2"), "joins convolutions of different inputs"),
    "floor pools": (Drawing(pools="floor"), lambda m: None, r"MaxPool `n\d+` does not pool in ceil mode.*map of 10 px"),
    "floor pools, symbolic size": (Drawing(pools="floor", side="S"), lambda m: None, "map of unknown px"),
    "padded pools, symbolic size": (
        Drawing(pools="ceil", side="S"),
        on("MaxPool", 0, pads=[0, 0, 1, 1]),
        "does not pool in ceil mode",
    ),
    "pool padded at the top": (Drawing(), on("MaxPool", 0, pads=[1, 1, 1, 1]), "MaxPool `n2` does not pool in ceil mode"),
    "pool of 2": (Drawing(), on("MaxPool", 0, kernel_shape=[2, 2]), r"MaxPool `n2` has kernel_shape \[2, 2\]"),
    "no first pool": (Drawing(), drop("MaxPool"), "Conv `n0` is not followed by a MaxPool"),
    "two pools": (Drawing(), second_pool, "MaxPool `again` follows another pool"),
    "input read late": (Drawing(), lambda m: m.graph.input.append(m.graph.input[0]), "`2` inputs and `1` outputs"),
    "two outputs": (Drawing(), second_output, "`1` inputs and `2` outputs"),
    "grey input": (Drawing(), input_dims("N", 1, 43, 43), r"takes an input of `\[None, 1, 43, 43\]`"),
    "oblong input": (Drawing(), input_dims("N", 3, 43, 44), "equal height and width"),
    "flat input": (Drawing(), input_dims("N", 3), "takes an input of"),
    "tiny input": (Drawing(), input_dims(1, 3, 8, 8), "takes an input of `8` px"),
    "partial average": (Drawing(final="AveragePool"), on("AveragePool", 0, kernel_shape=[3, 3]), "not the whole map of 5 px"),
    "average over rows": (Drawing(final="ReduceMean"), on("ReduceMean", 0, axes=[2]), r"mean over axes \[2\]"),
    "average over all": (Drawing(final="ReduceMean", opset=18), lambda m: node_of(m, "ReduceMean").input.pop(), "axes None"),
    "external data": (Drawing(), external, "in another file"),
    "unknown dtype": (Drawing(), lambda m: setattr(initializer(m, "features.0.weight"), "data_type", 99), "is damaged"),
    "a name that is no text": (
        Drawing(),
        lambda m: m.ParseFromString(m.SerializeToString().replace(b"n12", b"n\xff2")),
        "not UTF-8 text",
    ),
    "short data": (Drawing(), short_data, "`features.0.weight` in `drawn.onnx` is damaged"),
    "huge dimensions": (Drawing(), huge_dims, "is damaged"),
    "opset 6": (Drawing(), old_opset, "opset `6`"),
    "no opset": (Drawing(), lambda m: m.ClearField("opset_import"), "opset `0`"),
    "a circle": (
        Drawing(),
        rewire("Conv", 0, 0, "t9"),
        "is damaged: Conv `n0` waits for a tensor that nobody makes, or for itself",
    ),
    "tensor made twice": (Drawing(), lambda m: node_of(m, "Relu").output.__setitem__(0, "t0"), "is damaged: `t0` is made twice"),
    "lacking operand": (Drawing(), lambda m: node_of(m, "Relu").input.pop(), "is damaged: Relu `n1` has `0` inputs"),
    "Add of three": (
        Drawing(arch=SIMPLE),
        lambda m: node_of(m, "Add").input.append("t2"),
        "is damaged: Add `n17` has `3` inputs",
    ),
    "quantized": (Drawing(), rename("Relu", "DequantizeLinear"), "DequantizeLinear `n1` is an operator"),
    "output is the input": (Drawing(), lambda m: m.graph.output[0].CopyFrom(m.graph.input[0]), "`image`, which no operator"),
    "conv1 reads no input": (Drawing(), drop("Conv"), "stands where Conv"),
    "strange Add": (Drawing(arch=SIMPLE), rewire("Add", 0, 1, "t2"), "Add `n17` does not add a Fire module's input"),
    "Add of two others": (Drawing(arch=SIMPLE), rewire("Add", 0, 0, "t9"), "Add `n17` does not add"),
    "bypass of another tensor": (Drawing(arch=RICH), lambda m: rewire("Conv", 4, 0, "t1")(m), "Add `n11` does not add"),
    "bypass orders differ": (Drawing(arch=SIMPLE, swapped=(0,)), lambda m: None, "channels differ in number or in order"),
    "bypass of another width": (
        Drawing(arch=RICH),
        lambda m: (
            put_tensor("features.3.bypass.weight", np.ones((1, 6, 1, 1), np.float32))(m),
            put_tensor("features.3.bypass.bias", np.ones(1, np.float32))(m),
        )[0],
        "adds 1 channels to 8",
    ),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_what_is_no_squeezenet_is_refused_by_name(name: str) -> None:
    drawing, change, says = BROKEN[name]
    drawing = replace(drawing, nodes=[], initializers=[])
    model = drawing.model(weights(drawing.arch))
    change(model)
    with pytest.raises(BadInput, match=says) as caught:
        read(model)
    assert "\n" not in caught.value.message


def test_a_cast_to_integers_is_refused() -> None:
    model = Drawing(tail=("Identity", "Flatten")).model(weights(PLAIN))
    node = node_of(model, "Identity")
    node.op_type = "Cast"
    set_attribute(node, to=TensorProto.INT8)
    with pytest.raises(BadInput, match="casts to no float type"):
        read(model)
    set_attribute(node, to=TensorProto.FLOAT16)  # the control
    read(model)


def test_quantized_files_get_a_hint() -> None:
    model = Drawing().model(weights(PLAIN))
    rename("Relu", "QuantizeLinear")(model)
    with pytest.raises(BadInput) as caught:
        read(model)
    assert caught.value.hint is not None
    assert "float model" in caught.value.hint


def test_shape_arithmetic_before_a_reshape_is_not_looked_at() -> None:
    """Older torch exporters write `x.view(x.size(0), -1)` as Shape, Gather ..., Reshape."""
    model = Drawing(tail=("Reshape",)).model(weights(PLAIN))
    reshape = node_of(model, "Reshape")
    model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Shape", [reshape.input[0]], ["size"]))
    reshape.input[1] = "size"
    assert read(model)[0] == PLAIN


@pytest.mark.parametrize("data", [b"", b"\x00" * 50, b"no protobuf at all", b"\x08"])
def test_files_that_are_no_onnx_are_refused(data: bytes) -> None:
    with pytest.raises(BadInput):
        read_onnx(parsed(data, "x.onnx"), "x.onnx")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    data = Drawing().model(weights(PLAIN)).SerializeToString()
    path = tmp_path / "net.onnx"
    path.write_bytes(data)
    assert read_checkpoint(path).architecture == PLAIN
    for end in range(0, len(data), 97):
        path.write_bytes(data[:end])
        with pytest.raises(BadInput):
            open_network(path)


def test_damaged_bytes_never_give_a_traceback(tmp_path: Path) -> None:
    data = Drawing(arch=RICH).model(weights(RICH)).SerializeToString()
    draw = np.random.default_rng(5)
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for at in draw.integers(0, len(data), 3):
            damaged[at] = draw.integers(0, 256)
        try:
            read_onnx(parsed(bytes(damaged), "x.onnx"), "x.onnx")
        except BadInput:
            refused += 1
    assert 0 < refused <= 150


def test_the_2018_file(assets: Path) -> None:
    found = read_checkpoint(assets / "weights" / "squeezenet1_1_caffe_fp16.onnx")
    assert found.architecture == FAMILY["squeezenet1_1"]
    assert found.kind == "onnx"
    assert found.preprocess == replace(CAFFE, crop_px=224)
    model = onnx.load(found.path)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert np.array_equal(found.tensors["features.3.squeeze.weight"], stored["fire2/squeeze1x1_w_0"].astype(np.float32))
    assert np.array_equal(found.tensors["classifier.1.bias"], stored["conv10_b_0"].astype(np.float32))
