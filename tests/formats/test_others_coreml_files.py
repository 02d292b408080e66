"""Core ML files of other tools: neural networks, with Apple's own as the example, and what coremltools' optimizers write."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_packages import change_model, copied, coremltools, message_of, written

from squeeze_export.core import Audit
from squeeze_export.errors import BadInput
from squeeze_export.formats import audited
from squeeze_export.formats.coreml import neural_network as reader

DRAW = np.random.default_rng(11)


def values(*shape: int, dtype: str = "float32") -> Any:
    return DRAW.normal(size=shape).astype(dtype)


# ------------------------------------------------------------------------------------------------------------- neural networks


def network(quantize: Callable[[Any], None] = lambda weights: None, kind: str = "neuralNetwork") -> Any:
    """A message with two convolutions, an activation between them and a linear layer behind them."""
    model = message_of(b"")
    model.specificationVersion = 4
    taken = model.description.input.add(name="image")
    taken.type.imageType.width, taken.type.imageType.height, taken.type.imageType.colorSpace = 8, 6, 20
    model.description.output.add(name="head").type.multiArrayType.dataType = 65568
    layers = getattr(model, kind).layers
    for name, source, made, count in (("conv1", "image", "sum", 27), ("conv2", "relu", "map", 16)):
        layer = layers.add(name=name, input=[source], output=[made])
        layer.convolution.weights.floatValue.extend([0.5] * count)
        layer.convolution.bias.floatValue.extend([0.0] * 4)
        quantize(layer.convolution.weights)
        if name == "conv1":
            layers.add(name="relu", input=["sum"], output=["relu"]).activation.ReLU.SetInParent()
    head = layers.add(name="head", input=["map"], output=["head"])
    head.innerProduct.weights.floatValue.extend([1.0] * 12)
    quantize(head.innerProduct.weights)
    return model


def lookup(weights: Any) -> None:
    """4 bits an index."""
    count = len(weights.floatValue)
    del weights.floatValue[:]
    weights.rawValue = bytes((count + 1) // 2)
    weights.quantization.numberOfBits = 4
    weights.quantization.lookupTableQuantization.floatValue.extend([0.0] * 16)


def linear(weights: Any) -> None:
    count = len(weights.floatValue)
    del weights.floatValue[:]
    weights.rawValue = bytes(count)
    weights.quantization.numberOfBits = 8
    weights.quantization.linearQuantization.scale.append(0.1)


def halves(weights: Any) -> None:
    count = len(weights.floatValue)
    del weights.floatValue[:]
    weights.float16Value = bytes(2 * count)


@pytest.fixture
def audit(tmp_path: Path) -> Callable[[Any], Audit]:
    def of(model: Any) -> Audit:
        (tmp_path / "a.mlmodel").write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return audited("coreml", tmp_path / "a.mlmodel")

    return of


FORM = "no convolution computes in integers: a neural network of Core ML's specification {}, which computes in floats"


def test_apples_own_network_is_a_lookup_table_of_8_bits(assets: Path) -> None:
    found = audited("coreml", assets / "peers" / "SqueezeNetInt8LUT.mlmodel")
    assert found.operators == {"activation": 26, "concat": 8, "convolution": 26, "pooling": 4, "softmax": 1}
    assert found.violations[:2] == (
        FORM.format(3) + "; weight-only quantization (8-bit lookup table in 26 of 26 products)",
        "convolution `conv1` computes in float: its input `image` is float32[1,3,227,227], its weights alone are quantized: "
        "8-bit lookup table",
    )
    assert sum(line.startswith("convolution ") for line in found.violations) == 26
    assert (found.untold, set(found.weight_bytes)) == ((), {"uint8"})
    assert 1_230_000 < found.weight_bytes["uint8"] < (assets / "peers" / "SqueezeNetInt8LUT.mlmodel").stat().st_size


@pytest.mark.parametrize(
    ("quantize", "said", "dtype", "size"),
    [
        (lookup, "; weight-only quantization (4-bit lookup table in 3 of 3 products)", "uint4", 14 + 8 + 6),
        (linear, "; weight-only quantization (8-bit linear in 3 of 3 products)", "uint8", 55),
        (halves, "", "float16", 110),
        (lambda weights: None, "", "float32", 220 + 32),
    ],
)
def test_weights_of_every_form(
    quantize: Callable[[Any], None], said: str, dtype: str, size: int, audit: Callable[[Any], Audit]
) -> None:
    found = audit(network(quantize))
    assert found.violations[0] == FORM.format(4) + said
    assert found.weight_bytes == {"float32": 32, dtype: size}
    assert found.float_operators == ("convolution conv1", "activation relu", "convolution conv2", "innerProduct head")
    stored = sum(line.startswith("the constant ") for line in found.violations)
    assert stored == (0 if said else 3)


def test_a_package_of_a_neural_network_is_the_same(tmp_path: Path, audit: Callable[[Any], Audit]) -> None:
    model = network(lookup, "neuralNetworkClassifier")
    path = written(tmp_path, lambda mb, x: mb.relu(x=x, name="y"))
    change_model(path, lambda message: message.CopyFrom(model))
    assert audited("coreml", path) == audit(model)


def test_a_layer_that_quantizes_its_activations_is_dynamic(audit: Callable[[Any], Audit]) -> None:
    model = network(lookup)
    head = model.neuralNetwork.layers[-1].innerProduct
    head.int8DynamicQuantize = True
    head.weights.ClearField("rawValue")
    head.weights.int8RawValue = bytes(12)
    head.weights.quantization.numberOfBits = 8
    head.weights.quantization.linearQuantization.scale.append(0.1)
    found = audit(model).violations
    assert (
        "innerProduct `head`: dynamic-range quantization, its weights are 8-bit linear, and it quantizes its activations, which "
        "are floats, while it runs"
    ) in found
    assert sum("computes in float: its input" in line for line in found) == 2


def custom(model: Any) -> None:
    model.neuralNetwork.layers[1].custom.className = "Mine"


def branch(model: Any) -> None:
    model.neuralNetwork.layers[1].branch.SetInParent()


@pytest.mark.parametrize(
    ("change", "kind", "reason"), [(custom, "custom", "a foreign operator"), (branch, "branch", "it has operators inside")]
)
def test_layers_that_cannot_be_seen_through(
    change: Callable[[Any], None], kind: str, reason: str, audit: Callable[[Any], Audit]
) -> None:
    model = network()
    change(model)
    assert audit(model).untold == (f"{kind} `relu` cannot be seen through: {reason}",)


@pytest.mark.parametrize("kind", ["treeEnsembleClassifier", "pipeline", "glmClassifier", "customModel"])
def test_models_of_other_kinds_cannot_be_told(kind: str, audit: Callable[[Any], Audit]) -> None:
    model = network()
    getattr(model, kind).SetInParent()
    found = audit(model)
    assert (found.violations, found.operators) == ((), {})
    assert found.untold == (f"the model is not read: its model is of the kind `{kind}`, not an ML program or a neural network",)


def raw(model: Any) -> None:
    model.neuralNetwork.layers[0].convolution.weights.rawValue = b"1"
    model.neuralNetwork.layers[0].convolution.weights.ClearField("floatValue")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda model: model.ClearField("description"), "it holds no model"),
        (lambda model: model.ClearField("specificationVersion"), "it holds no model"),
        (lambda model: model.ClearField("neuralNetwork"), "it holds no model"),
        (lambda model: model.neuralNetwork.ClearField("layers"), "it holds no model|has no layers"),
        (lambda model: model.neuralNetwork.layers[1].input.append("nowhere"), "takes `nowhere`, which nothing"),
        (lambda model: model.neuralNetwork.layers[1].ClearField("activation"), "a layer is of `0` kinds"),
        (raw, "packed to `0` bits"),
    ],
)
def test_damaged_networks_are_refused(change: Callable[[Any], Any], reason: str, audit: Callable[[Any], Audit]) -> None:
    model = network()
    change(model)
    with pytest.raises(BadInput, match=f"no Core ML package that can be read: .*({reason})"):
        audit(model)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x04\x12", bytes(100)])
def test_what_is_no_model(content: bytes, audit: Callable[[Any], Audit]) -> None:
    with pytest.raises(BadInput):
        audit(content)


def test_the_readers_numbers_are_coremltools() -> None:
    """Of the models, of the layers, and of the fields with weights."""
    coremltools()
    message = importlib.import_module("coremltools.proto.Model_pb2").Model.DESCRIPTOR
    layer = importlib.import_module("coremltools.proto.NeuralNetwork_pb2").NeuralNetworkLayer.DESCRIPTOR
    models = {field.number: field.name for field in message.oneofs_by_name["Type"].fields}
    assert models == {**reader.NETWORKS, **reader.OTHERS, reader.ML_PROGRAM: "mlProgram"}
    fields = layer.oneofs_by_name["layer"].fields
    assert dict(reader.LAYERS) == {field.number: field.name for field in fields}

    def paths(kind: Any, path: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
        for field in kind.fields:
            inner = field.message_type
            if inner is not None and inner.name == "WeightParams":
                yield (*path, field.number)
            elif inner is not None and inner.name not in ("NeuralNetwork", "ActivationParams") and len(path) < 3:
                yield from paths(inner, (*path, field.number))

    expected = {field.name: tuple(paths(field.message_type)) for field in fields}
    assert dict(reader.WEIGHTS) == {name: found for name, found in expected.items() if found}
    for name, number in reader.DYNAMIC.items():
        kind = next(field.message_type for field in fields if field.name == name)
        assert kind.fields_by_number[number].name == "int8DynamicQuantize"


# --------------------------------------------------------------------------------------------------- coremltools' own optimizers


def program(mb: Any, x: Any) -> Any:
    """As a converter leaves it: three convolutions in float16."""
    x = mb.conv(x=x, weight=values(8, 3, 3, 3, dtype="float16"), bias=values(8, dtype="float16"), pad_type="valid", name="conv1")
    x = mb.max_pool(x=mb.relu(x=x), kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid", name="pool1")
    x = mb.relu(x=mb.conv(x=x, weight=values(16, 8, 3, 3, dtype="float16"), pad_type="same", name="conv2"))
    x = mb.conv(x=x, weight=values(8, 16, 1, 1, dtype="float16"), pad_type="valid", name="conv3")
    return mb.reduce_mean(x=x, axes=[2, 3], keep_dims=False, name="logits")


class Ranges(dict[str, Mapping[str, float]]):
    """Of every activation. Measuring them takes macOS."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Mapping[str, float]:
        return {"rmin": -4.0, "rmax": 6.0}


Step = tuple[str, Mapping[str, Any]]


def optimized(folder: Path, steps: tuple[Step, ...], monkeypatch: pytest.MonkeyPatch, ios: int = 18) -> Audit:
    """The audit of a float16 package behind these functions of `coremltools.optimize.coreml`."""
    tools = coremltools()
    with redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = importlib.import_module("coremltools.optimize.coreml")
        trial = importlib.import_module("coremltools.optimize.coreml.experimental")
        measuring = importlib.import_module("coremltools.optimize.coreml._post_training_quantization")
        monkeypatch.setattr(measuring, "_get_activation_calibration_stats", lambda *_, **__: Ranges())
        package = written(folder, program, (1, 3, 16, 16), ios=ios, dtype="fp16")
        model = tools.models.MLModel(str(package), skip_model_load=True)
        compressed = False
        for function, options in steps:
            if function == "linear_quantize_activations":
                config = library.OptimizationConfig(global_config=trial.OpActivationLinearQuantizerConfig(**options))
                model = trial.linear_quantize_activations(model, config, [{}])
                continue
            kind = {
                "linear_quantize_weights": "OpLinearQuantizerConfig",
                "palettize_weights": "OpPalettizerConfig",
                "prune_weights": "OpThresholdPrunerConfig",
            }[function]
            config = library.OptimizationConfig(global_config=getattr(library, kind)(weight_threshold=0, **options))
            model = getattr(library, function)(model, config, joint_compression=compressed)
            compressed = True
        model.save(str(folder / "b.mlpackage"))
    return audited("coreml", folder / "b.mlpackage")


SYMMETRIC: Step = ("linear_quantize_weights", {"mode": "linear_symmetric"})
UNSIGNED: Step = ("linear_quantize_weights", {"mode": "linear", "dtype": "uint8"})
ONE_SCALE: Step = ("linear_quantize_weights", {"mode": "linear_symmetric", "granularity": "per_tensor"})
NIBBLES: Step = ("linear_quantize_weights", {"mode": "linear_symmetric", "dtype": "int4"})
BLOCKS: Step = ("linear_quantize_weights", {"mode": "linear_symmetric", "granularity": "per_block", "block_size": 4})
PALETTE: Step = ("palettize_weights", {"mode": "uniform", "nbits": 4})
PRUNED: Step = ("prune_weights", {"threshold": 0.3, "minimum_sparsity_percentile": 0.0})
ACTIVATIONS: Step = ("linear_quantize_activations", {"mode": "linear_symmetric"})


@pytest.mark.parametrize(
    ("steps", "packing", "ios"),
    [
        ((SYMMETRIC,), "int8", 17),
        ((UNSIGNED,), "uint8", 17),
        ((PALETTE,), "4-bit lookup table", 17),
        ((PRUNED,), "", 17),
        ((SYMMETRIC,), "int8", 18),
        ((ONE_SCALE,), "int8", 18),
        ((NIBBLES,), "int4", 18),
        ((PALETTE,), "4-bit lookup table", 18),
        ((PALETTE, ONE_SCALE), "4-bit lookup table of int8", 18),
        ((PRUNED,), "", 18),
        ((PRUNED, SYMMETRIC), "sparse int8", 18),
        ((PRUNED, PALETTE), "sparse 4-bit lookup table", 18),
    ],
)
def test_weights_alone(steps: tuple[Step, ...], packing: str, ios: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They compute in float, and no scale or table is charged; floats of pruned weights are."""
    found = optimized(tmp_path, steps, monkeypatch, ios)
    said = f": weight-only quantization ({packing} in 3 of 3 products)" if packing else ""
    assert found.violations[0] == f"no convolution computes in integers{said}"
    assert sum(line.startswith("conv `") for line in found.violations) == 3
    assert sum(line.startswith("the constant") for line in found.violations) == (0 if packing else 3)
    assert found.untold == ()
    integers = packing.rpartition(" ")[2] in ("int8", "uint8", "int4")
    products = [line for line in found.violations if line.startswith("conv `")]
    assert all(("its weights alone are integers" in line) == integers for line in products)


def test_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first convolution has 3 channels, which are no blocks of 4, and is left in float."""
    found = optimized(tmp_path, (BLOCKS,), monkeypatch)
    assert (
        found.violations[0] == "no convolution computes in integers: weight-only quantization (int8 in blocks in 2 of 3 products)"
    )
    assert [line for line in found.violations if line.startswith("the constant")] == [
        "the constant `conv1_weight_0` is stored as float16[8,3,3,3]"
    ]


@pytest.mark.parametrize("steps", [(ACTIVATIONS, SYMMETRIC), (ACTIVATIONS, ONE_SCALE)])
def test_integers_on_both_sides(steps: tuple[Step, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = optimized(tmp_path, steps, monkeypatch)
    assert (found.violations, found.untold) == ((), ())
    assert found.operators["conv"] == 3


@pytest.mark.parametrize(("step", "packing"), [(UNSIGNED, "uint8"), (NIBBLES, "int4"), (PALETTE, "4-bit lookup table")])
def test_quantized_activations_with_other_weights(
    step: Step, packing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be told of integers other than int8; a table of floats is none."""
    found = optimized(tmp_path, (ACTIVATIONS, step), monkeypatch)
    if step is PALETTE:
        assert found.violations[0] == f"no convolution computes in integers: quantized weights ({packing} in 3 of 3 products)"
        return
    doubt = f"computes in integers or in float: its weights are {packing}, and Apple promises integer arithmetic of int8 alone"
    assert found.violations == ()
    assert found.untold == tuple(f"conv `conv{place}` {doubt}" for place in (1, 2, 3))


def test_activations_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = optimized(tmp_path, (ACTIVATIONS,), monkeypatch)
    assert found.violations[0] == "no convolution computes in integers"
    assert "conv `conv2` computes in float: its operand `conv2_weight_0` is stored as float16[16,8,3,3]" in found.violations


# ------------------------------------------------------------------------------------------------------- newer than the reader


def other_function(model: Any) -> None:
    model.mlProgram.functions["other"].CopyFrom(model.mlProgram.functions["main"])


def other_type(model: Any) -> None:
    function = model.mlProgram.functions["main"]
    function.block_specializations[function.opset].operations[0].outputs[0].type.tensorType.dataType = 99


@pytest.mark.parametrize(("change", "reason"), [(other_function, "the functions `"), (other_type, "unknown data type `99`")])
def test_newer_programs_cannot_be_told(change: Callable[[Any], None], reason: str, int8_mlpackage: Path, tmp_path: Path) -> None:
    path = copied(int8_mlpackage, tmp_path)
    change_model(path, change)
    found = audited("coreml", path)
    assert found.violations == ()
    assert found.untold[0].startswith("the model is not read: ")
    assert reason in found.untold[0]
