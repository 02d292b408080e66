"""Layers kept in float in TFLite files: what is written, what runtimes make of it, and an audit that is not talked into more."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from test_tflite import small, sqnr_db

from squeeze_export.core import Artifact, Audit, EmitOptions
from squeeze_export.errors import Refused
from squeeze_export.formats import audited as audit_of
from squeeze_export.formats import audited as audited_file
from squeeze_export.formats.contents import KEPT_FLOAT_KEY
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Add, Conv, QuantizedConv
from squeeze_export.graph.quantized import FP32, INT8, INT8_PER_TENSOR, QuantizedGraph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.measure.difference import first_layer_apart
from squeeze_export.nets.architecture import Bypass
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.pipeline.export import export
from squeeze_export.quant.mixed import keep_float
from squeeze_export.quant.recipes import quantize as quantize_graph
from squeeze_export.runtimes.tflite import litert
from squeeze_export.runtimes.tflite.interpreter import LITERT_BUILTIN
from squeeze_export.targets import tflite
from squeeze_export.targets.tflite.writer import Writer
from tests.formats.test_tflite_format import STEPS, conv, dequantize, quantize

KEPT: tuple[tuple[Bypass, str], ...] = (
    ("none", "fire2/squeeze1x1"),
    ("none", "fire3/expand3x3"),
    ("none", "conv1"),
    ("none", "conv10"),
    ("none", "all but conv1"),
    ("simple", "fire3/add"),
    ("complex", "fire2/add"),
    ("complex", "fire3/bypass1x1"),
    ("complex", "all but conv1"),
)
"""The network, and the layer of it that is named. In the bypass networks an Add has floats on one side, on both, or on none."""


@cache
def mixed(bypass: Bypass = "none", layer: str = "fire2/squeeze1x1", pad: int = 0) -> tuple[QuantizedGraph, QuantizedGraph, Any]:
    """The table with the layer kept in float, the table all in integers, and images."""
    graph, quantized, pixels = small(bypass=bypass, pad=pad)
    every = [node.name for node in graph.nodes if isinstance(node, Conv | Add)]
    layers = {"everything": every, "all but conv1": every[1:]}.get(layer, [layer])
    return keep_float(graph, quantized, layers), quantized, pixels


def written(folder: Path, network: QuantizedGraph, options: EmitOptions = EmitOptions()) -> tuple[Artifact, Audit]:  # noqa: B008
    return export(network, "tflite", network.scheme, folder, name="mixed", options=options)


def model_of(path: Path) -> Any:
    return schema.ModelT.InitFromPackedBuf(path.read_bytes())


def codes_of(path: Path) -> set[tuple[str, int]]:
    """The kinds and versions of a file's operators."""
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    return {(names[code.builtinCode], code.version) for code in model_of(path).operatorCodes}


def operators_of(path: Path) -> list[tuple[str, list[str], list[str]]]:
    """Kind, inputs and outputs of every operator, in order."""
    model = model_of(path)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    tensors = [tensor.name.decode() for tensor in model.subgraphs[0].tensors]
    return [
        (names[model.operatorCodes[op.opcodeIndex].builtinCode], *([tensors[i] for i in side] for side in (op.inputs, op.outputs)))
        for op in model.subgraphs[0].operators
    ]


def macs(network: QuantizedGraph, *, integer: bool) -> int:
    kinds = QuantizedConv if integer else QuantizedConv | Conv
    found = [node for node in network.nodes if isinstance(node, kinds)]
    return sum(int(np.prod(network.sizes[node.name][:2])) * node.weight.size for node in found)


# ------------------------------------------------------------------------------------------------------------------ what is written


def test_a_layer_between_integers_is_written_in_float(tmp_path: Path) -> None:
    network, _, _ = mixed()
    artifact, _ = written(tmp_path, network)
    operators = operators_of(artifact.path)
    assert [entry for entry in operators if "fire2/" in "".join(entry[2])] == [
        ("CONV_2D", ["pool1/float", "fire2/squeeze1x1/weight", "fire2/squeeze1x1/bias"], ["fire2/squeeze1x1"]),
        *(
            entry
            for side in ("expand1x1", "expand3x3")
            for entry in (
                ("CONV_2D", ["fire2/squeeze1x1", f"fire2/{side}/weight", f"fire2/{side}/bias"], [f"fire2/{side}/unrounded"]),
                ("QUANTIZE", [f"fire2/{side}/unrounded"], [f"fire2/{side}"]),
            )
        ),
        ("CONCATENATION", ["fire2/expand1x1", "fire2/expand3x3"], ["fire2/concat"]),
    ]
    assert ("DEQUANTIZE", ["pool1"], ["pool1/float"]) in operators
    assert codes_of(artifact.path) == {
        *(("QUANTIZE", 1), ("DEQUANTIZE", 2), ("CONV_2D", 1), ("CONV_2D", 3)),
        *(("MAX_POOL_2D", 2), ("CONCATENATION", 2), ("MEAN", 1)),
    }
    model = model_of(artifact.path)
    tensors = {tensor.name.decode(): tensor for tensor in model.subgraphs[0].tensors}
    (kept,) = (node for node in network.nodes if node.name == "fire2/squeeze1x1")
    assert isinstance(kept, Conv)
    stored = [model.buffers[tensors[f"{kept.name}/{part}"].buffer].data.tobytes() for part in ("weight", "bias")]
    assert stored == [np.ascontiguousarray(kept.weight.transpose(0, 2, 3, 1)).tobytes(), kept.bias.tobytes()]
    assert tensors[kept.name].quantization is None


def test_everything_in_float_is_written_as_the_float_network_is(tmp_path: Path) -> None:
    """The pixels are the only integers; versions are those of an fp32 file."""
    network, _, _ = mixed("complex", "everything", 1)
    graph, _, _ = small(bypass="complex", pad=1)
    floats, _ = export(graph, "tflite", FP32, tmp_path, name="float")
    found, path = declaring(tmp_path, network, network.kept_float), tmp_path / "said.tflite"
    assert operators_of(path) == operators_of(floats.path)
    assert codes_of(path) == codes_of(floats.path)
    assert {version for _, version in codes_of(path)} == {1}
    assert found.kept_float == network.kept_float


def test_integers_are_brought_to_floats_once(tmp_path: Path) -> None:
    """pool1 is read by two layers in float, fire2/concat by an Add in integers and by one convolution in float."""
    graph, quantized, _ = small(bypass="complex")
    network = keep_float(graph, quantized, ["fire2/squeeze1x1", "fire2/bypass1x1"])
    operators = operators_of(written(tmp_path, network)[0].path)
    made = [outputs[0] for kind, _, outputs in operators if kind == "DEQUANTIZE"]
    assert len(made) == len(set(made))
    readers = [kind for kind, inputs, _ in operators if "pool1/float" in inputs]
    assert readers == ["CONV_2D", "CONV_2D"]


def test_pixels_go_to_a_first_layer_in_float_at_once(tmp_path: Path) -> None:
    network, _, _ = mixed(layer="conv1")
    assert operators_of(written(tmp_path, network)[0].path)[:2] == [
        ("DEQUANTIZE", ["input"], ["input/float"]),
        ("CONV_2D", ["input/float", "conv1/weight", "conv1/bias"], ["conv1"]),
    ]
    floats = operators_of(written(tmp_path, network, EmitOptions(input_dtype="float32"))[0].path)
    assert floats[0] == ("CONV_2D", ["input", "conv1/weight", "conv1/bias"], ["conv1"])


def test_the_mean_reads_a_last_layer_in_float(tmp_path: Path) -> None:
    network, _, _ = mixed(layer="conv10", pad=1)
    operators = operators_of(written(tmp_path, network)[0].path)
    assert operators[-3:] == [
        ("PAD", ["fire3/concat/float", "conv10/pads"], ["conv10/padded"]),
        ("CONV_2D", ["conv10/padded", "conv10/weight", "conv10/bias"], ["conv10"]),
        ("MEAN", ["conv10", "logits/axes"], ["logits"]),
    ]


def test_what_the_table_rounds_is_read_rounded(tmp_path: Path) -> None:
    """Also where one layer in float reads another's result, in a table that has integers in between all the same."""
    network, quantized, pixels = mixed()
    rounded = replace(network, tensors=quantized.tensors)
    artifact, found = written(tmp_path, rounded)
    assert found.violations == ()
    operators = operators_of(artifact.path)
    assert ("DEQUANTIZE", ["fire2/squeeze1x1"], ["fire2/squeeze1x1/float"]) in operators
    assert [kind for kind, inputs, _ in operators if "fire2/squeeze1x1/unrounded" in inputs] == ["QUANTIZE"]
    logits = litert.open_session(artifact, device="cpu", threads=1).infer(pixels)
    assert sqnr_db(IntegerRunner(rounded)(pixels), logits) > sqnr_db(IntegerRunner(network)(pixels), logits) + 10


def test_the_same_arguments_give_the_same_bytes() -> None:
    network, _, _ = mixed()
    first, second = (tflite.emit(network, INT8, EmitOptions(), {}) for _ in range(2))
    assert first == second


# --------------------------------------------------------------------------------------------------------- what runtimes make of it


@pytest.mark.parametrize(("bypass", "layer"), KEPT)
def test_runtimes_give_the_exact_runs_answers(bypass: Bypass, layer: str, tmp_path: Path) -> None:
    """Every layer is what its inputs make of it, and the logits are nearer to the mixed table's than to the integer one's."""
    network, quantized, pixels = mixed(bypass, layer)
    artifact, found = written(tmp_path, network)
    assert (found.violations, found.kept_float) == ((), network.kept_float)
    runner, names = IntegerRunner(network), [node.name for node in network.nodes[:-1]]
    expected = runner(pixels)
    for runtime, least_db in ((litert, 45), (LITERT_BUILTIN, 30)):
        session = runtime.open_session(artifact, device="cpu", threads=1)
        logits = session.infer(pixels)
        assert sqnr_db(expected, logits) > least_db, runtime.NAME
        if runtime is litert:
            assert sqnr_db(expected, logits) > sqnr_db(IntegerRunner(quantized)(pixels), logits) + 10
        values = runtime.inner_values(artifact, names, pixels[:1])
        assert list(values) == names
        assert first_layer_apart(runner, pixels[:1], values) == "", runtime.NAME
        floats = [entry.removeprefix("CONV_2D ") for entry in session.placement.float_operators if entry.startswith("CONV_2D ")]
        assert [name.removesuffix("/unrounded") for name in floats] == list(network.kept_float)
        share = macs(network, integer=True) / macs(network, integer=False)
        assert session.placement.integer_mac_share == pytest.approx(share, abs=1e-12)
        assert session.kernels == ("XNNPACK" if runtime is litert else "builtin")


def test_inner_values_tell_a_float_layer_that_is_off(tmp_path: Path) -> None:
    network, _, pixels = mixed()
    artifact, _ = written(tmp_path, network)
    names = [node.name for node in network.nodes[:-1]]
    values = dict(litert.inner_values(artifact, names, pixels[:1]))
    values["fire2/squeeze1x1"] = values["fire2/squeeze1x1"] * np.float32(1.02)
    assert first_layer_apart(IntegerRunner(network), pixels[:1], values) == "fire2/squeeze1x1"
    with pytest.raises(Refused, match="has no tensor `fire99`"):
        litert.inner_values(artifact, ["fire99"], pixels[:1])


@pytest.mark.parametrize("options", [EmitOptions("dynamic", "float32"), EmitOptions(3), EmitOptions(1, "int8")], ids=str)
def test_the_outer_form_does_not_change_the_logits(options: EmitOptions, tmp_path: Path) -> None:
    network, _, pixels = mixed("none", "conv1")
    expected = litert.open_session(written(tmp_path, network)[0], device="cpu", threads=1).infer(pixels)
    artifact, found = written(tmp_path, network, options)
    assert found.violations == ()
    np.testing.assert_array_equal(litert.open_session(artifact, device="cpu", threads=1).infer(pixels), expected)


def test_one_scale_a_layer_beside_floats(tmp_path: Path) -> None:
    graph, _, pixels = small()
    quantized = quantize_graph(graph, pixels, FloatRunner(graph), INT8_PER_TENSOR)
    network = keep_float(graph, quantized, ["fire3/squeeze1x1"])
    artifact, found = written(tmp_path, network)
    assert (found.violations, found.kept_float) == ((), network.kept_float)
    logits = litert.open_session(artifact, device="cpu", threads=1).infer(pixels)
    assert sqnr_db(IntegerRunner(network)(pixels), logits) > 45


def test_a_real_network(assets: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(assets / "weights" / "squeezenet1_1.pth")
    graph = build_graph(checkpoint.architecture, checkpoint.tensors, checkpoint.preprocess)
    files = sorted((assets / "images" / "calib").glob("*.jpg"))[:8] + sorted((assets / "images" / "eval").glob("*/*.jpg"))[:60:15]
    photographs = np.stack([load_pixels(file, checkpoint.preprocess) for file in files])
    quantized = quantize_graph(graph, photographs[:8], FloatRunner(graph), INT8, threads=2)
    network, pixels = keep_float(graph, quantized, ["conv1", "fire3/squeeze1x1", "conv10"]), photographs[8:]
    artifact, found = written(tmp_path, network)
    assert (found.violations, found.kept_float) == ((), network.kept_float)
    logits, expected = litert.open_session(artifact, device="cpu", threads=1).infer(pixels), IntegerRunner(network)(pixels)
    assert sqnr_db(expected, logits) > 45
    values = litert.inner_values(artifact, [node.name for node in network.nodes[:-1]], pixels[:1])
    assert first_layer_apart(IntegerRunner(network), pixels[:1], values) == ""


# ----------------------------------------------------------------------------------------------- an audit that knows what was asked


def declaring(folder: Path, network: QuantizedGraph, declared: Any, scheme: str = "int8") -> Audit:
    """The audit of a file that says this of itself, whatever is inside."""
    said = {"squeeze_export.scheme": scheme, KEPT_FLOAT_KEY: json.dumps(declared)}
    path = folder / "said.tflite"
    path.write_bytes(tflite.emit(network, INT8, EmitOptions(), said))
    return audited_file("tflite", path)


def test_a_file_without_integers_is_no_integer_network_whatever_it_says(tmp_path: Path) -> None:
    network, _, _ = mixed("none", "everything")
    assert declaring(tmp_path, network, network.kept_float).violations == ("no convolution computes in integers",)


def test_the_floats_stay_listed(tmp_path: Path) -> None:
    network, _, _ = mixed()
    found = declaring(tmp_path, network, network.kept_float)
    assert found.violations == ()
    assert {"CONV_2D fire2/squeeze1x1", "QUANTIZE fire2/expand1x1", "DEQUANTIZE pool1/float"} < set(found.float_operators)
    assert any(entry.startswith("fire2/squeeze1x1/weight float32") for entry in found.float_tensors)


@pytest.mark.parametrize(("bypass", "layer"), KEPT)
def test_without_the_declaration_nothing_is_excused(bypass: Bypass, layer: str, tmp_path: Path) -> None:
    network, _, _ = mixed(bypass, layer)
    found = declaring(tmp_path, network, [])
    lines = [line for line in found.violations if line.startswith("CONV_2D")]
    assert len(lines) == len(network.kept_float)
    assert len([line for line in found.violations if line.startswith("the constant")]) == 2 * len(network.kept_float)
    assert found.kept_float == ()


def test_a_float_convolution_more_than_declared_fails(tmp_path: Path) -> None:
    network, _, _ = mixed()
    found = declaring(tmp_path, network, network.kept_float[:2])
    assert network.kept_float[2] == "fire2/expand3x3"
    assert found.violations == (
        "CONV_2D `fire2/expand3x3/unrounded` computes in float: its input `fire2/squeeze1x1` is float32[1,15,15,4], its operand "
        "`fire2/expand3x3/weight` is float32[12,3,3,4], its operand `fire2/expand3x3/bias` is float32[12], its result "
        "`fire2/expand3x3/unrounded` is float32[1,15,15,12]",
        "QUANTIZE `fire2/expand3x3` computes in float before the last convolution",
        "the constant `fire2/expand3x3/weight` is stored as float32[12,3,3,4]",
        "the constant `fire2/expand3x3/bias` is stored as float32[12]",
    )
    assert found.kept_float == network.kept_float[:2]


@pytest.mark.parametrize("wrong", ["conv10", "fire99", "fire2/expand3x3/unrounded", ""])
def test_declaring_what_is_no_float_convolution_fails(wrong: str, tmp_path: Path) -> None:
    network, _, _ = mixed()
    found = declaring(tmp_path, network, [*network.kept_float, wrong])
    assert found.violations == (f"the file says that `{wrong}` was kept in float, which is no convolution in float here",)
    assert found.kept_float == network.kept_float


def test_a_scheme_without_floats_excuses_none(tmp_path: Path) -> None:
    network, _, _ = mixed()
    found = declaring(tmp_path, network, network.kept_float, "int8-npu")
    assert found.kept_float == ()
    for name in network.kept_float:
        assert f"the file says that `{name}` was kept in float, which is no convolution in float here" in found.violations
    assert any(line.startswith("CONV_2D `fire2/squeeze1x1` computes in float") for line in found.violations)


@pytest.mark.parametrize("declared", [{"fire2/squeeze1x1": 1}, "fire2/squeeze1x1", [1]])
def test_a_declaration_that_is_no_list_of_names_excuses_none(declared: Any, tmp_path: Path) -> None:
    assert any("computes in float: " in line for line in declaring(tmp_path, mixed()[0], declared).violations)


def audited(writer: Writer, source: int, result: int, path: Path, declared: tuple[str, ...] = ("conv2",)) -> Audit:
    said = {KEPT_FLOAT_KEY: json.dumps(declared), "squeeze_export.scheme": "int8"}
    path.write_bytes(writer.pack(source, result, {"squeeze_export": json.dumps(said).encode()}))
    return audit_of("tflite", path)


def front() -> tuple[Writer, int, int]:
    """A convolution in integers, and what it makes brought to floats."""
    writer = Writer("by hand")
    source = writer.tensor("input", (1, 8, 8, 4), "int8", STEPS)
    return writer, source, dequantize(writer, conv(writer, source, "conv1"), "conv1/float")


def test_two_float_convolutions_of_one_name_are_not_excused(tmp_path: Path) -> None:
    writer, source, real = front()
    for _ in range(2):
        real = conv(writer, real, "conv2", activations="float32", weights="float32")
    found = audited(writer, source, real, tmp_path / "a.tflite")
    assert found.kept_float == ()
    assert [line.startswith("CONV_2D `conv2` computes in float") for line in found.violations[1:3]] == [True, True]


def test_integer_weights_are_no_layer_kept_in_float(tmp_path: Path) -> None:
    writer, source, real = front()
    result = conv(writer, real, "conv2", activations="float32")
    found = audited(writer, source, result, tmp_path / "a.tflite")
    assert found.violations[1].startswith("CONV_2D `conv2`: dynamic-range quantization, its weights are int8, ")
    assert "the file says that `conv2` was kept in float, which is no convolution in float here" in found.violations


def test_widened_weights_are_no_layer_kept_in_float(tmp_path: Path) -> None:
    writer, source, real = front()
    stored = writer.constant("conv2/weight/int8", np.ones((4, 1, 1, 4), np.int8), STEPS)
    weight = writer.tensor("conv2/weight", (4, 1, 1, 4), "float32")
    writer.operator("DEQUANTIZE", 2, [stored], weight)
    result = writer.tensor("conv2", (1, 8, 8, 4), "float32")
    writer.operator("CONV_2D", 1, [real, weight], result, ("Conv2DOptions", {"strideW": 1, "strideH": 1}))
    assert audited(writer, source, result, tmp_path / "a.tflite").kept_float == ()


def test_a_detour_beside_a_kept_layer_fails(tmp_path: Path) -> None:
    """A pool that reads the same real values is in float for no reason; behind the layer it would be."""
    for behind in (False, True):
        writer, source, real = front()
        second = conv(writer, real, "conv2", activations="float32", weights="float32")
        pool = writer.tensor("pool", (1, 8, 8, 4), "float32")
        writer.operator("MAX_POOL_2D", 1, [second if behind else real], pool, ("Pool2DOptions", {"strideW": 1, "strideH": 1}))
        result = conv(writer, quantize(writer, pool, "back"), "conv3")
        found = audited(writer, source, result, tmp_path / "a.tflite")
        named = ("MAX_POOL_2D `pool`", "QUANTIZE `back`")
        detour = tuple(f"{name} computes in float before the last convolution" for name in named)
        assert found.violations == (() if behind else detour)
        assert found.kept_float == ("conv2",)


def test_what_else_reads_a_kept_layers_weights_fails(tmp_path: Path) -> None:
    writer, source, real = front()
    second = conv(writer, real, "conv2", activations="float32", weights="float32")
    bias = second - 1  # was added before the result
    total = writer.tensor("total", (1, 8, 8, 4), "float32")
    writer.operator("ADD", 1, [second, bias], total, ("AddOptions", {}))
    found = audited(writer, source, total, tmp_path / "a.tflite")
    assert found.violations == ("the constant `conv2/bias` is stored as float32[4]",)
    multiplied = writer.tensor("multiplied", (1, 8, 8, 4), "float32")
    writer.operator("MUL", 1, [total, second], multiplied, ("MulOptions", {}))
    found = audited(writer, source, multiplied, tmp_path / "a.tflite")
    assert "MUL `multiplied` computes in float behind the last convolution" in found.violations
