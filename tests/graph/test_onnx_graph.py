"""ONNX files of any graph of the operators that are read: what torch's exporter writes, and what others do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as refusals
from torch import nn
from torch.nn import functional

from squeeze_export.errors import BadInput
from squeeze_export.formats.onnx import parsed
from squeeze_export.graph.nodes import Conv, Graph, Pair
from squeeze_export.graph.onnx_graph import read_graph
from squeeze_export.graph.run import FloatRunner
from tests.onnx_networks import Net, assert_same_network, built, drawn, exported, fed, read, stirred, their_answers


def fire(inputs: int, squeeze: int, expand: int) -> nn.Module:
    def steps(net: Any, x: Any) -> Any:
        x = net.squeeze(x)  # as in SqueezeNet 1.2, no ReLU here
        return torch.cat([net.expand1x1(x).relu(), net.expand3x3(x).relu()], 1)

    parts = {"expand1x1": nn.Conv2d(squeeze, expand, 1), "expand3x3": nn.Conv2d(squeeze, expand, 3, padding=1)}
    return Net(steps, squeeze=nn.Conv2d(inputs, squeeze, 1), **parts)


@dataclass
class Form:
    """A network, and what the file is expected to become.

    Attributes:
        net: makes the module.
        shape: of an image as the module takes it.
        kinds: how many nodes of which kind there must be, the global pool aside; not compared where empty.
        note: a part of what must be said; nothing may be said where it is empty.
        end: what the file does behind the logits.
    """

    net: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 36, 36)
    kinds: dict[str, int] = field(default_factory=dict)
    note: str = ""
    end: Callable[[Any], Any] | None = None
    opset: int = 17
    dtype: Any = torch.float32
    nhwc: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def softmax(logits: Any) -> Any:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def head(net: Any, x: Any) -> Any:
    return functional.adaptive_avg_pool2d(net.last(x).relu(), 1).flatten(1)


def tail(inputs: int = 8, classes: int = 5) -> dict[str, nn.Module]:
    return {"last": nn.Conv2d(inputs, classes, 1)}


def conv(inputs: int = 3, outputs: int = 8, kernel: Any = 3, stride: Any = 2, padding: Any = 0, bias: bool = True) -> nn.Module:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=bias)


FORMS: dict[str, Form] = {
    "conv1 of stride 1": Form(lambda: Net(lambda n, x: head(n, n.a(x).relu()), a=conv(stride=1), **tail()), kinds={"Conv": 2}),
    "conv1 with padding": Form(lambda: Net(lambda n, x: head(n, n.a(x).relu()), a=conv(padding=1), **tail()), kinds={"Conv": 3}),
    "oblong kernels and strides": Form(
        lambda: Net(lambda n, x: head(n, n.a(x).relu()), a=conv(kernel=(1, 5), stride=(3, 2), padding=(0, 2)), **tail()),
        kinds={"Conv": 3},
    ),
    "an input that is not square": Form(
        lambda: Net(lambda n, x: head(n, n.a(x).relu()), a=conv(), **tail()), shape=(3, 30, 45), kinds={"Conv": 2}
    ),
    "grey": Form(lambda: Net(lambda n, x: head(n, n.a(x).relu()), a=conv(1), **tail()), shape=(1, 32, 32), kinds={"Conv": 2}),
    "one output": Form(
        lambda: Net(lambda n, x: n.fc(n.a(x).relu().mean((2, 3))), a=conv(), fc=nn.Linear(8, 1)),
        note="Gemm `/fc/Gemm` becomes a 1x1 convolution before the global pool",
    ),
    "BatchNorm behind each convolution": Form(
        lambda: Net(
            lambda n, x: head(n, n.c(n.b(n.a(x)).relu()).relu()),
            **{"a": conv(bias=False), "b": nn.BatchNorm2d(8), "c": nn.Sequential(conv(8, 8), nn.BatchNorm2d(8)), **tail()},
        ),
        kinds={"Conv": 3},
    ),
    "BatchNorm that the exporter leaves": Form(
        lambda: Net(lambda n, x: head(n, n.b(n.a(x)).relu()), a=conv(bias=False), b=nn.BatchNorm2d(8), **tail()),
        kinds={"Conv": 2},
        options={"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False},
    ),
    "BatchNorm behind a ReLU": Form(
        lambda: Net(lambda n, x: head(n, n.b(n.a(x).relu())), a=conv(), b=nn.BatchNorm2d(8), **tail()), kinds={"Conv": 2}
    ),
    "BatchNorm behind a ReLU, before padding": Form(
        lambda: Net(
            lambda n, x: head(n, n.c(n.b(n.a(x).relu())).relu()), a=conv(), b=nn.BatchNorm2d(8), c=conv(8, 8, padding=1), **tail()
        ),
        kinds={"Conv": 4},
        note="has a 1x1 convolution of its own",
    ),
    "BatchNorm behind a pool and a Concat": Form(
        lambda: Net(
            lambda n, x: head(n, n.b(torch.cat([n.p(n.a(x)), n.p(n.a(x).relu())], 1))),
            a=conv(),
            p=nn.MaxPool2d(3, 2),
            b=nn.BatchNorm2d(16),
            **tail(16),
        ),
        kinds={"Conv": 3, "MaxPool": 2, "Concat": 1},
    ),
    "ReLU behind pool and Concat": Form(
        lambda: Net(
            lambda n, x: head(n, n.p(torch.cat([n.a(x), n.b(x), n.c(x).relu()], 1)).relu()),
            **{"a": conv(), "b": conv(), "c": conv(), "p": nn.MaxPool2d(3, 2, 1), **tail(24)},
        ),
        kinds={"Conv": 4, "MaxPool": 1, "Concat": 1},
    ),
    "SqueezeNet 1.2, without a ReLU behind the squeeze": Form(
        lambda: Net(
            lambda n, x: head(n, n.f(n.p(n.a(x).relu()))),
            a=conv(),
            p=nn.MaxPool2d(3, 2, ceil_mode=True),
            f=fire(8, 4, 6),
            **tail(12),
        ),
        kinds={"Conv": 5, "MaxPool": 1, "Concat": 1},
    ),
    "pools in floor mode, with padding, of 2": Form(
        lambda: Net(
            lambda n, x: head(n, n.q(n.p(n.a(x).relu()))),
            a=conv(stride=1),
            p=nn.MaxPool2d(3, 2, 1),
            q=nn.MaxPool2d(2, (2, 3)),
            **tail(),
        ),
        kinds={"Conv": 2, "MaxPool": 2},
    ),
    "a pool in ceil mode with padding": Form(
        lambda: Net(lambda n, x: head(n, n.p(n.a(x).relu())), a=conv(stride=1), p=nn.MaxPool2d(3, 2, 1, ceil_mode=True), **tail()),
        kinds={"Conv": 2, "MaxPool": 1},
    ),
    "average pools inside": Form(
        lambda: Net(
            lambda n, x: head(n, n.q(n.p(n.a(x).relu()))), a=conv(stride=1), p=nn.AvgPool2d(2), q=nn.AvgPool2d(3, 2, 1), **tail()
        ),
        kinds={"Conv": 4},
        note="becomes a 2x2 convolution from each channel to itself",
    ),
    "addition and ReLU": Form(
        lambda: Net(
            lambda n, x: head(n, (n.b(n.a(x).relu()) + n.a(x).relu()).relu()), a=conv(), b=conv(8, 8, stride=1, padding=1), **tail()
        ),
        kinds={"Conv": 3, "Add": 1},
    ),
    "addition of what has a BatchNorm": Form(
        lambda: Net(
            lambda n, x: head(n, n.n(n.p(n.a(x))) + n.p(n.a(x))), a=conv(), n=nn.BatchNorm2d(8), p=nn.MaxPool2d(2), **tail()
        ),
        kinds={"Conv": 2, "MaxPool": 1},
    ),
    "a constant for each channel": Form(
        lambda: Net(lambda n, x: head(n, n.a(x) * torch.arange(-2.0, 6.0)[:, None, None] - 0.5), a=conv(), **tail()),
        kinds={"Conv": 2},
    ),
    "zeros put around a map": Form(
        lambda: Net(
            lambda n, x: head(n, n.b(n.z(n.a(x).relu())).relu()), a=conv(), z=nn.ZeroPad2d((0, 1, 0, 2)), b=conv(8, 8), **tail()
        ),
        kinds={"Conv": 3},
    ),
    "a global pool by its window": Form(
        lambda: Net(lambda n, x: functional.avg_pool2d(n.last(n.a(x).relu()), 17).flatten(1), a=conv(), **tail()), kinds={"Conv": 2}
    ),
    "linear layer behind the mean": Form(
        lambda: Net(lambda n, x: n.fc(n.d(n.a(x).relu().mean((2, 3)))), a=conv(), d=nn.Dropout(), fc=nn.Linear(8, 5)),
        kinds={"Conv": 2},
        note="before the global pool",
    ),
    "mean with axes as an input": Form(
        lambda: Net(lambda n, x: n.fc(n.a(x).relu().mean((2, 3))), a=conv(), fc=nn.Linear(8, 5)),
        kinds={"Conv": 2},
        note="before the global pool",
        opset=18,
    ),
    "two linear layers on a flattened map": Form(
        lambda: Net(
            lambda n, x: n.g(n.f(n.p(n.a(x).relu()).flatten(1)).relu()),
            a=conv(),
            p=nn.MaxPool2d(4, 4),
            f=nn.Linear(8 * 16, 12),
            g=nn.Linear(12, 5),
        ),
        kinds={"Conv": 3, "MaxPool": 1},
    ),
    "a linear layer on a map with channels last": Form(
        lambda: Net(
            lambda n, x: n.f(n.p(n.a(x).relu()).permute(0, 2, 3, 1).flatten(1)),
            a=conv(),
            p=nn.MaxPool2d(4, 4),
            f=nn.Linear(8 * 16, 5),
        ),
        kinds={"Conv": 2, "MaxPool": 1},
    ),
    "a mean with channels last": Form(
        lambda: Net(lambda n, x: n.f(n.a(x).relu().permute(0, 2, 3, 1).mean((1, 2))), a=conv(), f=nn.Linear(8, 5)),
        note="before the global pool",
    ),
    "a mean that keeps its axes, squeezed": Form(
        lambda: Net(lambda n, x: n.a(x).relu().mean((2, 3), keepdim=True).squeeze(3).squeeze(2), a=conv()),
    ),
    "a 1x1 convolution behind the global pool": Form(
        lambda: Net(lambda n, x: n.last(functional.adaptive_avg_pool2d(n.a(x).relu(), 1)).flatten(1), a=conv(), **tail()),
        kinds={"Conv": 2},
        note="Conv `/last/Conv` becomes a 1x1 convolution before the global pool",
    ),
    "matrix product and addition": Form(
        lambda: Net(lambda n, x: n.a(x).relu().mean((2, 3)) @ n.fc.weight.T.detach() + n.fc.bias, a=conv(), fc=nn.Linear(8, 5)),
        kinds={"Conv": 2},
        note="before the global pool",
    ),
    "view by the batch's size": Form(
        lambda: Net(lambda n, x: functional.adaptive_avg_pool2d(n.last(n.a(x).relu()), 1).view(x.size(0), -1), a=conv(), **tail()),
        kinds={"Conv": 2},
        opset=11,
        options={"dynamic_axes": {"image": {0: "N"}}},
    ),
    "mean and std inside": Form(
        lambda: Net(
            lambda n, x: head(
                n, n.a((x - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / torch.tensor([0.2, 0.3, 0.25])[:, None, None])
            ),
            a=conv(padding=1),
            **tail(),
        ),
        kinds={"Conv": 3},
    ),
    "bytes, channels last": Form(
        lambda: Net(lambda n, x: head(n, n.a((x.permute(0, 3, 1, 2).float() / 255 - 0.45) * 4).relu()), a=conv(), **tail()),
        shape=(36, 40, 3),
        kinds={"Conv": 2},
        dtype=torch.uint8,
        nhwc=True,
    ),
    "softmax": Form(
        lambda: Net(lambda n, x: head(n, n.a(x).relu()).softmax(1), a=conv(), **tail()),
        note="Softmax `/Softmax` at the end is left out: files give logits (--softmax puts it back)",
        end=softmax,
    ),
    "softmax without an axis, before opset 13": Form(
        lambda: Net(lambda n, x: head(n, n.a(x).relu()).softmax(1), a=conv(), **tail()), note="left out", end=softmax, opset=11
    ),
    "log softmax": Form(
        lambda: Net(lambda n, x: head(n, n.a(x).relu()).log_softmax(-1), a=conv(), **tail()),
        note="LogSoftmax `/LogSoftmax` at the end is left out",
        end=lambda logits: np.log(softmax(logits)),
    ),
    "sigmoid": Form(
        lambda: Net(lambda n, x: head(n, n.a(x).relu()).sigmoid(), a=conv(), **tail()),
        note="Sigmoid `/Sigmoid` at the end is left out: files give logits (--sigmoid puts it back)",
        end=lambda logits: 1 / (1 + np.exp(-logits)),
    ),
}


def kinds_of(graph: Graph) -> dict[str, int]:
    names = [type(node).__name__ for node in graph.nodes[:-1]]
    return {name: names.count(name) for name in dict.fromkeys(names)}


@pytest.mark.parametrize("name", list(FORMS))
def test_a_form_gives_what_onnx_runtime_gives(name: str) -> None:
    form = FORMS[name]
    torch.manual_seed(sum(map(ord, name)))
    model = exported(stirred(form.net()), form.shape, opset=form.opset, dtype=form.dtype, **form.options)
    found = read(model)
    graph, pixels = built(found), drawn(found)
    batch = fed(found, pixels)
    expected = their_answers(model, batch.transpose(0, 2, 3, 1) if form.nhwc else batch)
    answers = FloatRunner(graph)(pixels)
    assert_same_network(form.end(answers) if form.end else answers, expected)
    assert not form.kinds or kinds_of(graph) == form.kinds
    assert form.note in " ".join(found.notes)
    assert bool(form.note) == bool(found.notes)


# ------------------------------------------------------------------------------------------------- what other exporters write


def plain() -> Any:
    """A small network, its convolution's weights under their own names."""
    torch.manual_seed(1)
    net = Net(lambda n, x: head(n, n.b(n.a(x).relu()).relu()), a=conv(), b=conv(8, 8, padding=1), **tail())
    return exported(stirred(net), (3, 36, 36))


def stored(model: Any, name: str) -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def node_of(model: Any, kind: str, which: int = 0) -> Any:
    return [node for node in model.graph.node if node.op_type == kind][which]


def behind_cast(dtype: int) -> Callable[[Any], None]:
    """Every weight in another type, and a Cast that makes float32 of it."""

    def change(model: Any) -> None:
        for tensor in list(model.graph.initializer):
            values = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(dtype))
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values, f"{name}.stored"))
            model.graph.node.insert(0, helper.make_node("Cast", [f"{name}.stored"], [name], to=TensorProto.FLOAT))

    return change


def masked(model: Any) -> None:
    """What torch's exporter makes of a large pruned layer: weight x mask, left to the runtime."""
    weight = numpy_helper.to_array(stored(model, "b.weight"))
    mask = (np.random.default_rng(0).random(weight.shape) > 0.5).astype(np.float32)
    stored(model, "b.weight").name = "b.weight_orig"
    model.graph.initializer.append(numpy_helper.from_array(mask, "b.weight_mask"))
    model.graph.node.insert(0, helper.make_node("Mul", ["b.weight_orig", "b.weight_mask"], ["b.weight"]))


def reversed_nodes(model: Any) -> None:
    """ONNX Runtime sorts them too."""
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def same_upper(model: Any) -> None:
    """Keras's padding, by name."""
    second = node_of(model, "Conv", 1)
    kept = [attribute for attribute in second.attribute if attribute.name != "pads"]
    del second.attribute[:]
    second.attribute.extend([*kept, helper.make_attribute("auto_pad", "SAME_UPPER")])


def unnamed(model: Any) -> None:
    for node in model.graph.node:
        node.name = ""


def weights_as_inputs(model: Any) -> None:
    """As before IR version 4."""
    model.graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer)


def constants(model: Any) -> None:
    """Weights in Constant nodes, one behind an Identity, and one that nobody reads."""
    for tensor in list(model.graph.initializer):
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del model.graph.initializer[:]
    node_of(model, "Conv").input[1] = "again"
    model.graph.node.insert(0, helper.make_node("Identity", ["a.weight"], ["again"]))
    model.graph.node.append(helper.make_node("LeakyRelu", ["image"], ["unread"]))


def clipped(model: Any) -> None:
    """A ReLU as Clip."""
    relu = node_of(model, "Relu")
    relu.op_type = "Clip"
    relu.input.extend(["zero", ""])
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "zero"))


def summed(model: Any) -> None:
    """Caffe2's Sum of three."""
    node_of(model, "Conv", 1).input[0] = "sum"
    source = node_of(model, "Relu").output[0]
    model.graph.node.append(helper.make_node("Sum", [source, node_of(model, "Conv").output[0], source], ["sum"]))


CHANGES: dict[str, Callable[[Any], None]] = {
    "float16 weights": behind_cast(TensorProto.FLOAT16),
    "bfloat16 weights": behind_cast(TensorProto.BFLOAT16),
    "float64 weights": behind_cast(TensorProto.DOUBLE),
    "weight times mask": masked,
    "nodes in any order": reversed_nodes,
    "padding by name": same_upper,
    "nodes without names": unnamed,
    "weights among the inputs": weights_as_inputs,
    "weights as constants": constants,
    "a ReLU as Clip": clipped,
    "a sum of three": summed,
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_other_exporters_manners_are_read(name: str) -> None:
    model = plain()
    CHANGES[name](model)
    found = read(model)
    pixels = drawn(found)
    assert_same_network(FloatRunner(built(found))(pixels), their_answers(model, fed(found, pixels)))
    assert found.notes == ()


def by_dynamo(*, optimized: bool) -> Any:
    """What `torch.onnx.export(..., dynamo=True)` of torch 2.13 writes, by hand: that needs onnxscript.

    With `optimize=False` the bias of a convolution that has none is made of `Shape`, `CastLike` and `Expand`, whose names are
    `val_9` and so on, and BatchNorm stays.
    """
    rng, node, nodes = np.random.default_rng(6), helper.make_node, list[Any]()
    held: dict[str, Any] = {
        "mean": np.reshape([0.49, 0.48, 0.44], (1, 3, 1, 1)),
        "std": np.reshape([0.25, 0.24, 0.26], (1, 3, 1, 1)),
        "c.weight": rng.normal(size=(8, 3, 3, 3)) / 5,
        "c.bias": rng.normal(size=8) / 5,
        "f.squeeze.weight": rng.normal(size=(4, 8, 1, 1)) / 3,
        "fc.weight": rng.normal(size=(5, 4)),
        "fc.bias": rng.normal(size=5),
        **{f"f.bn.{name}": rng.random(4) + 0.5 for name in ("weight", "bias", "running_mean", "running_var")},
    }

    def window(kernel: int, stride: int, pad: int) -> dict[str, Any]:
        sides = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        return {"auto_pad": "NOTSET", "dilations": [1, 1], **sides}

    nodes += [
        node("Sub", ["image", "mean"], ["sub"], "node_sub"),
        node("Div", ["sub", "std"], ["div"], "node_div"),
        node("Conv", ["div", "c.weight", "c.bias"], ["conv2d"], "node_conv2d", group=1, **window(3, 2, 1)),
        node("Relu", ["conv2d"], ["relu"], "node_relu"),
        node("MaxPool", ["relu"], ["max_pool2d"], "node_max_pool2d", storage_order=0, ceil_mode=1, **window(3, 2, 0)),
    ]
    if optimized:
        held["f.squeeze.weight_bias"] = rng.normal(size=4)
        operands = ["max_pool2d", "f.squeeze.weight", "f.squeeze.weight_bias"]
        nodes.append(node("Conv", operands, ["getitem"], "node_Conv_54", group=1, **window(1, 1, 0)))
    else:
        norm = [f"f.bn.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
        nodes += [
            node("Shape", ["f.squeeze.weight"], ["val_9"], start=0, end=1),
            node("Constant", [], ["val_10"], value_ints=[1]),
            node("Expand", ["val_9", "val_10"], ["val_11"]),
            node("Constant", [], ["val_12"], value=numpy_helper.from_array(np.array(0.25, np.float32))),
            node("CastLike", ["val_12", "max_pool2d"], ["val_13"]),
            node("Expand", ["val_13", "val_11"], ["val_14"]),
            node("Conv", ["max_pool2d", "f.squeeze.weight", "val_14"], ["conv2d_1"], "node_conv2d_1", group=1, **window(1, 1, 0)),
            node("BatchNormalization", ["conv2d_1", *norm], ["getitem"], epsilon=1e-5, momentum=0.9),
        ]
    nodes += [
        node("Relu", ["getitem"], ["relu_1"], "node_relu_1"),
        node("ReduceMean", ["relu_1", "val_40"], ["mean_1"], "node_mean", noop_with_empty_axes=0, keepdims=1),
        node("Reshape", ["mean_1", "val_45"], ["view"], "node_Reshape_61", allowzero=1),
        node("Gemm", ["view", "fc.weight", "fc.bias"], ["linear"], "node_linear", alpha=1.0, beta=1.0, transA=0, transB=1),
    ]
    tensors = [numpy_helper.from_array(np.asarray(values, np.float32), name) for name, values in held.items()]
    tensors += [numpy_helper.from_array(np.array(pair), name) for name, pair in (("val_40", [-1, -2]), ("val_45", [-1, 4]))]
    taken, given = ([name, TensorProto.FLOAT, shape] for name, shape in (("image", ["batch", 3, 36, 36]), ("linear", ["batch", 5])))
    graph = helper.make_graph(
        nodes, "main_graph", [helper.make_tensor_value_info(*taken)], [helper.make_tensor_value_info(*given)], tensors
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, producer_name="pytorch")


@pytest.mark.parametrize("optimized", [True, False])
def test_what_torchs_dynamo_exporter_writes_is_read(optimized: bool) -> None:
    model = by_dynamo(optimized=optimized)
    found = read(model)
    pixels = drawn(found)
    assert_same_network(FloatRunner(built(found))(pixels), their_answers(model, fed(found, pixels)))
    assert [node.name for node in found.nodes] == ["c", "node_max_pool2d", "f.squeeze", "fc", "logits"]
    assert np.allclose(found.mean, [0.49, 0.48, 0.44])


@pytest.mark.parametrize(("start", "end", "fits"), [(0, 1, True), (-4, -3, True), (0, 2, False), (1, 2, False)])
def test_a_part_of_a_shape_is_that_part(start: int, end: int, fits: bool) -> None:
    """Of a weight of (4, 8, 1, 1), as the length of a bias."""
    model = by_dynamo(optimized=False)
    shape = node_of(model, "Shape")
    del shape.attribute[:]
    shape.attribute.extend([helper.make_attribute("start", start), helper.make_attribute("end", end)])
    if fits:
        assert len(read(model).nodes) == 5
    else:
        with pytest.raises(BadInput, match="has a bias of"):
            read(model)


def test_what_a_cast_like_may_round_is_refused() -> None:
    model = by_dynamo(optimized=False)
    cast = node_of(model, "CastLike")
    cast.input[:] = ["max_pool2d", "val_45"]
    with pytest.raises(BadInput, match="CastLike `val_13` may round to integers"):
        read(model)


def test_a_weight_that_is_a_hundredth_off_is_noticed() -> None:
    model = plain()
    found = read(model)
    pixels = drawn(found)
    expected = their_answers(model, fed(found, pixels))
    assert_same_network(FloatRunner(built(found))(pixels), expected)
    weight = numpy_helper.to_array(stored(model, "b.weight")).copy()
    weight[0] *= 1.01
    put("b.weight", weight)(model)
    with pytest.raises(AssertionError):
        assert_same_network(FloatRunner(built(read(model)))(pixels), expected)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18, 20])
def test_every_opset_is_read(opset: int) -> None:
    torch.manual_seed(2)
    net = stirred(Net(lambda n, x: head(n, n.p(n.a(x).relu())).softmax(1), a=conv(), p=nn.MaxPool2d(2), **tail()))
    model = exported(net, (3, 36, 36), opset=opset)
    found = read(model)
    pixels = drawn(found)
    assert_same_network(softmax(FloatRunner(built(found))(pixels)), their_answers(model, fed(found, pixels)))


def test_layers_have_the_files_names() -> None:
    model = plain()
    assert [node.name for node in read(model).nodes] == ["a", "b", "last", "logits"]
    stored(model, "a.weight").name = node_of(model, "Conv").input[1] = "onnx::Conv_17"
    node_of(model, "Conv", 1).input[1] = stored(model, "b.weight").name = "A.weight"
    node_of(model, "Conv", 2).name = "/features/features.3/Conv_1"
    node_of(model, "Conv", 2).input[1] = stored(model, "last.weight").name = "27"
    assert [node.name for node in read(model).nodes] == ["a", "A_2", "features/features.3", "logits"]
    for index, name in enumerate(["räksmörgås, 1", "input", "x/weight"]):
        node_of(model, "Conv", index).input[1] = model.graph.initializer[2 * index].name = str(index)
        node_of(model, "Conv", index).name = name
    assert [node.name for node in read(model).nodes] == ["r_ksm_rg_s_1", "input_2", "x/weight_2", "logits"]


def test_the_input_size_is_the_files_or_the_callers() -> None:
    fixed = plain()
    assert read(fixed).size == read(fixed, (36, 36)).size == (36, 36, 3)
    assert read(fixed).fixed
    with pytest.raises(BadInput, match="takes images of `36x36` px, not `40x36`"):
        read(fixed, (40, 36))
    torch.manual_seed(1)
    net = stirred(Net(lambda n, x: head(n, n.p(n.a(x).relu())), a=conv(), p=nn.MaxPool2d(3, 2, ceil_mode=True), **tail()))
    free = exported(net, (3, 36, 36), dynamic_axes={"image": {0: "N", 2: "H", 3: "W"}})
    assert not read(free).fixed
    assert read(free).size == (224, 224, 3)
    found = read(free, (30, 43))
    pixels = drawn(found)
    assert_same_network(FloatRunner(built(found))(pixels), their_answers(free, fed(found, pixels)))


def test_batch_norm_is_folded_in_float64() -> None:
    """y = (x - mean) / sqrt(var + epsilon) * scale + bias, worked by hand."""
    model = plain()
    weight, bias = (numpy_helper.to_array(stored(model, f"a.{part}")).astype(np.float64) for part in ("weight", "bias"))
    gamma, beta, mean, var = np.random.default_rng(0).uniform(0.5, 2, (4, 8)).astype(np.float32)
    for name, values in (("gamma", gamma), ("beta", beta), ("mean", mean), ("var", var)):
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    first, relu = node_of(model, "Conv"), node_of(model, "Relu")
    model.graph.node.append(
        helper.make_node("BatchNormalization", [first.output[0], "gamma", "beta", "mean", "var"], ["normalized"], epsilon=1e-3)
    )
    relu.input[0] = "normalized"
    layer = read(model).nodes[0]
    assert isinstance(layer, Conv)
    factor = gamma.astype(np.float64) / np.sqrt(
        var.astype(np.float64) + helper.get_attribute_value(model.graph.node[-1].attribute[0])
    )
    assert np.array_equal(layer.weight, (weight * factor[:, None, None, None]).astype(np.float32))
    assert np.array_equal(layer.bias, (bias * factor + (beta - mean.astype(np.float64) * factor)).astype(np.float32))


# ------------------------------------------------------------------------------------------------- weights in a file beside it


def split(folder: Path, location: str = "net.onnx.data") -> Any:
    """`plain`, its weights in a file beside it, as torch.onnx.export writes networks since 2.9."""
    model = plain()
    onnx.save(model, folder / "net.onnx", save_as_external_data=True, location=location, size_threshold=0)
    return onnx.load(folder / "net.onnx", load_external_data=False)


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    model = split(tmp_path)
    found = read(model, folder=tmp_path)
    pairs = zip(found.nodes, read(plain()).nodes, strict=True)
    assert [np.array_equal(a.weight, b.weight) for a, b in pairs if isinstance(a, Conv) and isinstance(b, Conv)] == [True] * 3
    with pytest.raises(BadInput, match=r"keeps `a\.weight` in another file"):
        read(model)


def put_entry(model: Any, key: str, value: str) -> None:
    entries = stored(model, "a.weight").external_data
    next(entry for entry in entries if entry.key == key).value = value


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("location", "../secret", "outside its own folder"),
        ("location", "/etc/passwd", "outside its own folder"),
        ("location", "link", "outside its own folder"),
        ("location", "", "outside its own folder"),
        ("location", "a\\..\\b", "outside its own folder"),
        ("location", "absent.data", "keeps its weights in `absent.data`, which is not beside it"),
        ("location", ".", "which is not beside it"),
        ("location", "x" * 5000, "cannot be read"),
        ("offset", "-4", "is damaged"),
        ("offset", "99999999999", "is damaged"),
        ("offset", "four", "is damaged"),
        ("length", "12", "is damaged"),
    ],
)
def test_weights_elsewhere_are_not_read(key: str, value: str, says: str, tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(1 << 20))
    (folder / "link").symlink_to(tmp_path / "secret")
    model = split(folder)
    read(model, folder=folder)  # the control
    put_entry(model, key, value)
    with pytest.raises(BadInput, match=says):
        read(model, folder=folder)


# ------------------------------------------------------------------------------------------------- what is refused


def renamed(kind: str, new: str, which: int = 0, **attributes: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        node = node_of(model, kind, which)
        node.op_type = new
        set_attributes(node, **attributes)

    return change


def set_attributes(node: Any, **values: Any) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name not in values]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(key, value) for key, value in values.items())])


def on(kind: str, which: int = 0, **values: Any) -> Callable[[Any], None]:
    return lambda model: set_attributes(node_of(model, kind, which), **values)


def put(name: str, values: Any) -> Callable[[Any], None]:
    return lambda model: stored(model, name).CopyFrom(numpy_helper.from_array(values, name))


def inserted(kind: str, *constants: Any, behind: str = "Relu", name: str = "new", **attributes: Any) -> Callable[[Any], None]:
    """An operator behind the first of another kind."""

    def change(model: Any) -> None:
        source = node_of(model, behind).output[0]
        for node in model.graph.node:
            node.input[:] = [name if operand == source else operand for operand in node.input]
        for output in model.graph.output:
            output.name = name if output.name == source else output.name
        names = [f"{name}{place}" for place in range(len(constants))]
        model.graph.initializer.extend(numpy_helper.from_array(v, n) for v, n in zip(constants, names, strict=True))
        model.graph.node.append(helper.make_node(kind, [source, *names], [name], name=name, **attributes))

    return change


def added(kind: str, *inputs: str, **attributes: Any) -> Callable[[Any], None]:
    """An operator whose result is the first convolution's bias."""

    def change(model: Any) -> None:
        model.graph.node.append(helper.make_node(kind, list(inputs), ["made"], **attributes))
        node_of(model, "Conv").input[2] = "made"

    return change


def both(*changes: Callable[[Any], None]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for one in changes:
            one(model)

    return change


def turned(kind: str) -> Callable[[Any], None]:
    """Its operands the other way round."""

    def change(model: Any) -> None:
        node = node_of(model, kind)
        node.input[:] = list(node.input)[::-1]

    return change


def gated(model: Any) -> None:
    """A ReLU becomes the product of two maps, as in squeeze and excitation."""
    gate = node_of(model, "Relu", 1)
    gate.op_type = "Mul"
    gate.input.append(node_of(model, "Relu").output[0])


def many_channels(model: Any) -> None:
    for name, shape in (("b.weight", (5000, 8, 1, 1)), ("b.bias", (5000,)), ("last.weight", (5, 5000, 1, 1))):
        put(name, np.ones(shape, np.float32))(model)
    set_attributes(node_of(model, "Conv", 1), kernel_shape=[1, 1], pads=[0, 0, 0, 0])
    average = helper.make_node("AveragePool", [node_of(model, "Relu", 1).output[0]], ["averaged"], name="new", kernel_shape=[2, 2])
    model.graph.node.append(average)
    node_of(model, "Conv", 2).input[0] = "averaged"


def many_joined(model: Any) -> None:
    """A tensor joined with itself, again and again: twice the channels each time."""
    for place in range(60):
        source = node_of(model, "Relu").output[0] if place == 0 else f"joined{place - 1}"
        model.graph.node.append(helper.make_node("Concat", [source, source], [f"joined{place}"], axis=1))
    node_of(model, "Conv", 1).input[0] = "joined59"


def map_at_the_end(model: Any) -> None:
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(node_of(model, "Relu", 2).output[0], 1, None))


def input_dims(*dims: Any, kind: int = TensorProto.FLOAT) -> Callable[[Any], None]:
    return lambda model: model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", kind, list(dims)))


def circle(model: Any) -> None:
    node_of(model, "Conv").input[0] = node_of(model, "Conv", 1).output[0]


REFUSED: dict[str, tuple[Callable[[Any], None], str]] = {
    "an operator that is not read": (renamed("Relu", "LeakyRelu"), "LeakyRelu `/Relu` is not among the operators"),
    "one of another domain": (
        lambda m: setattr(node_of(m, "Conv"), "domain", "com.microsoft"),
        "com.microsoft:Conv `/a/Conv` is not",
    ),
    "a quantized file": (renamed("Relu", "DequantizeLinear"), "DequantizeLinear `/Relu` is not among"),
    "groups": (on("Conv", 1, group=8), "Conv `/b/Conv` works in 8 groups"),
    "dilation": (on("Conv", 1, dilations=[2, 2]), r"Conv `/b/Conv` has dilations \[2, 2\]"),
    "neither floor nor ceil": (
        inserted("MaxPool", kernel_shape=[2, 2], ceil_mode=3),
        "MaxPool `new` has ceil_mode 3; 0 or 1 is possible",
    ),
    "an attribute of another opset": (
        inserted("ReduceMean", axes=[2, 3], noop_with_empty_axes=0),
        "has an attribute `noop_with_empty_axes` that it cannot have in opset 17",
    ),
    "an operand too few": (lambda m: node_of(m, "Relu").input.pop(), "Relu `/Relu` has 0 operands"),
    "ReLU6": (inserted("Clip", np.float32(0), np.float32(6)), "Clip `new` clips between 0.0 and 6.0; a plain ReLU is needed"),
    "squeeze and excitation": (gated, "combines two maps otherwise than by adding them"),
    "a hidden layer behind the global pool": (
        inserted("Relu", behind="GlobalAveragePool"),
        "Relu `new` stands behind the global average pool, where only linear layers",
    ),
    "an average without its padding": (
        inserted("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        "averages 3x3 pixels, but 2x2 at the border: no convolution divides by two numbers",
    ),
    "an average whose last window hangs over": (
        inserted("AveragePool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        "averages 2x2 pixels, but 1x1 at the border",
    ),
    "an average with padding whose last window hangs over": (
        inserted("AveragePool", kernel_shape=[2, 4], strides=[1, 4], pads=[0, 1, 0, 1], ceil_mode=1, count_include_pad=1),
        "averages 2x4 pixels, but 2x3 at the border",
    ),
    "an average of padding": (
        inserted("AveragePool", kernel_shape=[3, 3], strides=[20, 20], pads=[4, 4, 0, 0]),
        "averages nothing but padding",
    ),
    "a mean over one side": (inserted("ReduceMean", axes=[2]), r"takes the mean over the axes \[2\]"),
    "a mean image": (inserted("Sub", np.ones((1, 8, 17, 17), np.float32)), "which is not one number a channel"),
    "a constant divided by a map": (both(inserted("Div", np.ones(1, np.float32)), turned("Div")), "divides a constant by a map"),
    "a division by zero": (inserted("Div", np.zeros(1, np.float32)), "divides by zero"),
    "channels brought elsewhere": (inserted("Transpose", perm=[0, 1, 3, 2]), "only the channels may change place"),
    "a reshape that does not fit": (inserted("Reshape", np.array([1, 7, -1])), "does not fit the shape"),
    "a map at the end": (map_at_the_end, "one number for each class is needed"),
    "a Softmax in the middle": (inserted("Softmax", axis=1), "does not work on the scores of the classes"),
    "something behind the Softmax": (
        both(inserted("Softmax", behind="Flatten", name="end"), inserted("Mul", np.ones(1, np.float32), behind="Softmax")),
        "Mul `new` stands behind a Softmax",
    ),
    "the index of the class": (inserted("ArgMax", behind="Flatten"), "ArgMax `new` is not among the operators"),
    "BatchNorm in training": (
        inserted("BatchNormalization", *np.ones((4, 8), np.float32), training_mode=1),
        "export the network after `model.eval\\(\\)`",
    ),
    "a negative variance": (inserted("BatchNormalization", *-np.ones((4, 8), np.float32)), "not finite"),
    "Dropout in training": (inserted("Dropout", np.float32(0.5), np.bool_(True)), "drops at random"),
    "maps rounded": (inserted("Cast", to=TensorProto.INT8), "rounds to int8"),
    "zeros before a max-pool that has less": (
        both(
            inserted("MaxPool", kernel_shape=[2, 2], behind="Conv", name="pool"),
            inserted("Pad", np.array([0, 0, 1, 1, 0, 0, 1, 1]), behind="Conv"),
        ),
        "MaxPool `pool` takes a map padded with zeros, which may be its largest",
    ),
    "a padding of ones": (inserted("Pad", np.array([0, 0, 1, 1, 0, 0, 1, 1]), np.float32(1)), "does not put zeros around a map"),
    "integer weights": (put("b.weight", np.ones((8, 8, 3, 3), np.int8)), "has `b.weight` of int8, not floats"),
    "weights that are not finite": (
        put("b.weight", np.full((8, 8, 3, 3), np.nan, np.float32)),
        "weights of `b` that are not finite",
    ),
    "weights for other channels": (put("b.weight", np.ones((8, 7, 3, 3), np.float32)), "takes 7 channels where 8 arrive"),
    "a bias of another width": (put("b.bias", np.ones(3, np.float32)), r"has a bias of \[3\] for 8 channels"),
    "a weight that is computed from the image": (
        lambda m: node_of(m, "Conv", 1).input.__setitem__(1, node_of(m, "Relu").output[0]),
        "Conv `/b/Conv` takes `/Relu_output_0` where a constant is needed",
    ),
    "five channels": (input_dims(1, 5, 36, 36), "takes images of `5` channels"),
    "a flat input": (input_dims(1, 3888), "a batch of images has four dimensions"),
    "an input without pixels": (input_dims(1, 3, 4, 4), "takes images of `4x4` px"),
    "text for an input": (input_dims(1, 3, 36, 36, kind=TensorProto.STRING), "takes `object` images"),
    "a circle": (circle, "waits for a tensor that nobody makes, or for itself"),
    "an average of too many channels": (
        many_channels,
        "AveragePool `new` would need a convolution of 5000 channels to 5000, which is too large",
    ),
    "too many channels": (many_joined, "makes a map of 131072 x 17 x 17 at `joined13`, which is too large"),
    "a huge constant": (
        both(
            lambda m: m.graph.initializer.append(numpy_helper.from_array(np.array([1 << 20, 1 << 20]), "huge")),
            added("ConstantOfShape", "huge"),
        ),
        "ConstantOfShape `made` cannot be computed: a constant of 1099511627776",
    ),
    "a random constant": (added("RandomNormal", shape=[8]), "RandomNormal `made` is no operator that is computed beforehand"),
    "two inputs": (lambda m: m.graph.input.append(helper.make_tensor_value_info("other", 1, [1])), "`2` inputs and `1` outputs"),
    "opset 6": (lambda m: setattr(m.opset_import[0], "version", 6), "opset `6`"),
}


AVERAGES: dict[str, tuple[dict[str, Any], Pair]] = {
    "ceil mode, nothing hangs over": ({"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, (3, 3)),
    "padding that no window reaches": ({"kernel_shape": [3, 3], "strides": [4, 4], "pads": [0, 0, 1, 1]}, (3, 3)),
    "one window, as many pixels as there are": ({"kernel_shape": [5, 5], "strides": [17, 17], "pads": [2, 2, 0, 0]}, (3, 3)),
    "padding that counts": ({"kernel_shape": [3, 4], "pads": [1, 2, 1, 2], "count_include_pad": 1}, (3, 4)),
    "padding that counts, ceil mode": (
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1, "ceil_mode": 1},
        (3, 3),
    ),
}
"""Average pools of a map of 17 px -> over how many pixels each window is averaged."""


@pytest.mark.parametrize("opset", [10, 17, 20])
@pytest.mark.parametrize("name", list(AVERAGES))
def test_an_average_of_equal_windows_is_a_convolution(name: str, opset: int) -> None:
    attributes, (rows, columns) = AVERAGES[name]
    model = plain()
    model.opset_import[0].version = opset
    inserted("AveragePool", **attributes)(model)
    found = read(model)
    pixels = drawn(found)
    assert_same_network(FloatRunner(built(found))(pixels), their_answers(model, fed(found, pixels)))
    (average,) = [node for node in found.nodes if isinstance(node, Conv) and node.name == "new"]
    assert average.weight.max() == np.float32(1 / (rows * columns))


def test_an_average_of_the_whole_map_is_the_global_one_whatever_its_padding() -> None:
    model = plain()
    node = node_of(model, "GlobalAveragePool")
    node.op_type = "AveragePool"
    set_attributes(node, kernel_shape=[11, 11], pads=[1, 1, 1, 1])
    found = read(model)
    pixels = drawn(found)
    assert_same_network(FloatRunner(built(found))(pixels), their_answers(model, fed(found, pixels)))
    assert [node.name for node in found.nodes] == ["a", "b", "last", "logits"]


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_kept_is_refused_by_name(name: str) -> None:
    change, says = REFUSED[name]
    model = plain()
    change(model)
    with pytest.raises(BadInput, match=says) as caught:
        read(model)
    assert "\n" not in caught.value.message


def test_damaged_bytes_never_give_a_traceback() -> None:
    torch.manual_seed(0)
    net = Net(
        lambda n, x: n.fc(n.b(n.p(torch.cat([n.a((x - 0.5) / 2), n.a(x - 0.5).relu()], 1))).mean((2, 3))).softmax(1),
        a=conv(outputs=2),
        p=nn.MaxPool2d(2, ceil_mode=True),
        b=nn.BatchNorm2d(4),
        fc=nn.Linear(4, 2),
    )
    data = exported(stirred(net), (3, 36, 36)).SerializeToString()
    draw, refused = np.random.default_rng(5), 0
    for _ in range(400):
        damaged = bytearray(data)
        for at in draw.integers(0, len(data), 3):
            damaged[at] = draw.integers(0, 256)
        try:
            read_graph(parsed(bytes(damaged), "x.onnx"), "x.onnx")
        except BadInput:
            refused += 1
    assert refused > 0


# ------------------------------------------------------------------------------------------------- changed at random

OPERATORS = ("Conv", "Relu", "MaxPool", "AveragePool", "Concat", "Add", "Mul", "Sub", "Flatten", "Softmax", "Transpose", "Squeeze")
ATTRIBUTES = {"ceil_mode": 1, "pads": [0, 0, 1, 1], "strides": [1, 2], "auto_pad": "SAME_LOWER", "axis": -1, "perm": [0, 2, 3, 1]}
ATTRIBUTES |= {"kernel_shape": [2, 2], "count_include_pad": 1, "keepdims": 0, "transB": 0, "alpha": 0.5, "min": 0.0, "axes": [2, 3]}


REFUSALS = (refusals.Fail, refusals.InvalidGraph, refusals.InvalidArgument, refusals.RuntimeException, refusals.NotImplemented)
"""ONNX Runtime's."""


def mutated(model: Any, draw: np.random.Generator) -> None:
    """Another operator, operand, attribute or number of elements somewhere; most are no networks any more, or other ones."""
    graph = model.graph
    node = graph.node[draw.integers(len(graph.node))]
    names = [name for node in graph.node for name in (*node.input, *node.output)]
    match draw.integers(5):
        case 0:
            node.op_type = str(draw.choice(OPERATORS))
        case 1 if node.input:
            node.input[draw.integers(len(node.input))] = str(draw.choice(names))
        case 2:
            name = str(draw.choice(list(ATTRIBUTES)))
            set_attributes(node, **{name: ATTRIBUTES[name]})
        case 3 if node.attribute:
            held = node.attribute[draw.integers(len(node.attribute))]
            if held.ints:
                held.ints[draw.integers(len(held.ints))] = int(draw.integers(0, 4))
            else:
                held.i = int(draw.integers(-2, 3))
        case _ if graph.initializer:
            dims = graph.initializer[draw.integers(len(graph.initializer))].dims
            dims[draw.integers(len(dims))] = int(draw.integers(1, 9))


def test_what_is_read_of_changed_files_is_what_onnx_runtime_computes() -> None:
    """The reader never takes a file for another network: what it accepts, and ONNX Runtime opens, gives the same numbers."""
    draw, same = np.random.default_rng(8), 0
    names = (
        "pools in floor mode, with padding, of 2",
        "average pools inside",
        "ReLU behind pool and Concat",
        "linear layer behind the mean",
    )
    originals = [exported(stirred(FORMS[name].net()), FORMS[name].shape) for name in names]
    for _ in range(500):
        model = onnx.ModelProto()
        model.CopyFrom(originals[draw.integers(len(originals))])
        mutated(model, draw)
        try:
            found = read(model)
        except BadInput:
            continue
        pixels = drawn(found, 2)
        try:
            expected = their_answers(model, fed(found, pixels))
        except REFUSALS:
            continue
        answers = FloatRunner(built(found))(pixels)
        answers = softmax(answers) if any(note.startswith("Softmax") for note in found.notes) else answers
        assert np.abs(answers - expected).max() <= 1e-4 * max(np.abs(expected).max(), 1e-2)
        same += 1
    assert same > 50


def test_a_sum_of_very_many_is_no_recursion() -> None:
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(4, 3, 1, 1)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"]),
        helper.make_node("Sum", ["c"] * 1200, ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["g"]),
        helper.make_node("Flatten", ["g"], ["y"]),
    ]
    sides = (("image", [1, 3, 32, 32]), ("y", [1, 4]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in sides]
    graph = helper.make_graph(nodes, "sum", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    found = read(model)
    pixels = drawn(found, 2)
    assert_same_network(FloatRunner(built(found))(pixels), their_answers(model, fed(found, pixels)))
