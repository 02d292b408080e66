"""Layers kept in float in Core ML packages: what is written, what the evaluator makes of it, and an audit that is not fooled."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_packages import SPEC, bind, block_of, operation_named
from test_coreml_target import in_integers, model_of, sources, sqnr_db, tiny, values

from squeeze_export.core import Artifact, Audit, EmitOptions
from squeeze_export.errors import Refused
from squeeze_export.files import write_draft
from squeeze_export.formats import audited as audit_of
from squeeze_export.formats.contents import KEPT_FLOAT_KEY
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Add, Conv, QuantizedConv
from squeeze_export.graph.quantized import INT8, PALETTE8, QuantizedGraph
from squeeze_export.measure.difference import first_layer_apart
from squeeze_export.nets.architecture import Bypass
from squeeze_export.pipeline.export import export
from squeeze_export.quant.mixed import keep_float
from squeeze_export.runtimes.coreml import evaluator
from squeeze_export.targets import coreml
from squeeze_export.targets.coreml.program import HALF_PIXEL

KEPT: tuple[tuple[Bypass, str], ...] = (
    ("none", "fire2/squeeze1x1"),
    ("none", "fire3/expand3x3"),
    ("none", "conv1"),
    ("none", "conv10"),
    ("none", "all but conv1"),
    ("simple", "fire3/add"),
    ("complex", "fire2/add"),
    ("complex", "fire4/bypass1x1"),
)
"""The network, and the layer of it that is named."""


@cache
def mixed(bypass: Bypass = "none", layer: str = "fire2/squeeze1x1") -> tuple[QuantizedGraph, QuantizedGraph, Any]:
    """The table with the layer kept in float, the table all in integers, and images."""
    graph = tiny(bypass)
    pixels = np.random.default_rng(3).integers(0, 256, (8, 8, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    quantized = in_integers(graph, pixels)
    every = [node.name for node in graph.nodes if isinstance(node, Conv | Add)]
    layers = {"everything": every, "all but conv1": every[1:]}.get(layer, [layer])
    return keep_float(graph, quantized, layers), quantized, pixels


def emitted(network: QuantizedGraph, declared: Any = None, **options: Any) -> dict[str, bytes]:
    said = {} if declared is None else {"squeeze_export.scheme": "int8", KEPT_FLOAT_KEY: json.dumps(declared)}
    return coreml.emit(network, INT8, EmitOptions(**options), said)


def written(folder: Path, network: QuantizedGraph, **options: Any) -> tuple[Artifact, Audit]:
    return export(network, "coreml", INT8, folder, name="mixed", options=EmitOptions(**options))


# ------------------------------------------------------------------------------------------------------------------ what is written


@pytest.mark.parametrize("ios", [17, 18])
def test_a_layer_between_integers_has_no_pairs_inside(ios: int) -> None:
    network, _, _ = mixed()
    content = emitted(network, ios=ios)
    model = model_of(content)
    names = {output.name for entry in block_of(model).operations for output in entry.outputs}
    assert "fire2_squeeze1x1" in names
    assert not {"fire2_squeeze1x1_uint8", "fire2_squeeze1x1_float"} & names
    assert {"fire2_expand1x1_uint8", "fire2_expand1x1_float"} <= names
    assert sources(content, "fire2_squeeze1x1_conv")["x"] == "pool1"  # what dequantize gives
    assert operation_named(model, "pool1").type == "dequantize"
    assert sources(content, "fire2_expand1x1_conv")["x"] == "fire2_squeeze1x1"
    assert operation_named(model, "fire2_squeeze1x1").type == "relu"
    (kept,) = (node for node in network.nodes if node.name == "fire2/squeeze1x1")
    assert isinstance(kept, Conv)
    assert operation_named(model, "fire2_squeeze1x1_weight").type == "const"
    stored = operation_named(model, "fire2_squeeze1x1_weight").attributes["val"]
    np.testing.assert_array_equal(values(content, stored, np.float32), kept.weight)


@pytest.mark.parametrize(("compute", "unit"), [("float32", 1.0), ("float16", HALF_PIXEL)])
def test_pixels_go_to_a_first_layer_in_float_at_once(compute: str, unit: float) -> None:
    """In halves by the unit that its weights are made for."""
    network, _, _ = mixed(layer="conv1")
    content = emitted(network, coreml_compute=compute)
    model = model_of(content)
    names = {output.name for entry in block_of(model).operations for output in entry.outputs}
    assert not {"pixels_uint8", "pixels"} & names
    assert ("pixels_scaled" in names) == (unit != 1)
    (kept,) = (node for node in network.nodes if node.name == "conv1")
    assert isinstance(kept, Conv)
    stored = values(content, operation_named(model, "conv1_weight").attributes["val"], np.dtype(compute))
    np.testing.assert_array_equal(stored, (kept.weight / np.float32(unit)).astype(compute))


def test_the_mean_reads_a_last_layer_in_float() -> None:
    content = emitted(mixed(layer="conv10")[0])
    assert sources(content, "logits")["x"] == "conv10"
    assert operation_named(model_of(content), "conv10").type == "relu"


def test_everything_in_float_has_no_integers() -> None:
    kinds = {entry.type for entry in block_of(model_of(emitted(mixed(layer="everything")[0]))).operations}
    assert kinds == {"const", "conv", "relu", "max_pool", "concat", "reduce_mean", "softmax", "classify"}


def test_weights_beyond_halves_are_refused() -> None:
    network, _, _ = mixed()
    nodes = tuple(
        replace(node, weight=node.weight * np.float32(1e6)) if node.name == "fire2/squeeze1x1" and isinstance(node, Conv) else node
        for node in network.nodes
    )
    large = replace(network, nodes=nodes)
    emitted(large)
    with pytest.raises(Refused, match=r"`fire2_squeeze1x1_weight` reaches .* beyond float16"):
        emitted(large, coreml_compute="float16")


# --------------------------------------------------------------------------------------------------- what the evaluator makes of it


@pytest.mark.parametrize(("bypass", "layer"), KEPT)
def test_the_evaluator_gives_the_exact_runs_answers(bypass: Bypass, layer: str, tmp_path: Path) -> None:
    network, quantized, pixels = mixed(bypass, layer)
    artifact, found = written(tmp_path, network)
    assert (found.violations, found.kept_float) == ((), network.kept_float)
    runner, names = IntegerRunner(network), [node.name for node in network.nodes[:-1]]
    expected = runner(pixels)
    session = evaluator.open_session(artifact, device="cpu", threads=1)
    logits = session.infer(pixels)
    assert sqnr_db(expected, logits) > max(45, sqnr_db(IntegerRunner(quantized)(pixels), logits) + 10)
    shown = evaluator.inner_values(artifact, names, pixels[:1])
    assert first_layer_apart(runner, pixels[:1], shown) == ""
    floats = [entry.removeprefix("conv ") for entry in session.placement.float_operators if entry.startswith("conv ")]
    assert [name.removesuffix("_conv").removesuffix("_float") for name in floats] == [
        name.replace("/", "_") for name in network.kept_float
    ]
    macs = {
        node.name: int(np.prod(network.sizes[node.name][:2])) * node.weight.size
        for node in network.nodes
        if isinstance(node, Conv | QuantizedConv)
    }
    share = sum(macs[conv.name] for conv in network.convs) / sum(macs.values())
    assert session.placement.integer_mac_share == pytest.approx(share, abs=1e-12)


def test_inner_values_tell_a_float_layer_that_is_off(tmp_path: Path) -> None:
    network, _, pixels = mixed()
    names = [node.name for node in network.nodes[:-1]]
    shown = dict(evaluator.inner_values(written(tmp_path, network)[0], names, pixels[:1]))
    shown["fire2/squeeze1x1"] = shown["fire2/squeeze1x1"] * np.float32(1.02)
    assert first_layer_apart(IntegerRunner(network), pixels[:1], shown) == "fire2/squeeze1x1"


@pytest.mark.parametrize("layer", ["fire2/squeeze1x1", "conv1", "conv10"])
def test_halves_between_the_integers(layer: str, tmp_path: Path) -> None:
    network, _, pixels = mixed(layer=layer)
    artifact, found = written(tmp_path, network, coreml_compute="float16", ios=18)
    assert (found.violations, found.kept_float) == ((), network.kept_float)
    logits = evaluator.open_session(artifact, device="cpu", threads=1).infer(pixels)
    assert sqnr_db(IntegerRunner(network)(pixels), logits) > 30


# ----------------------------------------------------------------------------------------------- an audit that knows what was asked


@pytest.fixture
def audited(tmp_path: Path) -> Callable[..., Audit]:
    """Audits a package of a network that says this of itself, after a change to its model."""

    def audit(network: QuantizedGraph, declared: Any, change: Callable[[Any], None] = lambda model: None) -> Audit:
        content = emitted(network, declared)
        model = model_of(content)
        change(model)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.mlpackage"
        write_draft(path, {**content, SPEC: model.SerializeToString()})
        return audit_of("coreml", path)

    return audit


def test_a_file_without_integers_is_no_integer_network_whatever_it_says(audited: Callable[..., Audit]) -> None:
    network, _, _ = mixed(layer="everything")
    assert audited(network, network.kept_float).violations == ("no convolution computes in integers",)


def test_the_floats_stay_listed(audited: Callable[..., Audit]) -> None:
    network, _, _ = mixed()
    found = audited(network, network.kept_float)
    assert found.violations == ()
    listed = {"dequantize pool1", "conv fire2_squeeze1x1_conv", "relu fire2_squeeze1x1", "quantize fire2_expand1x1_uint8"}
    assert listed < set(found.float_operators)
    assert any(entry.startswith("fire2_squeeze1x1_weight float32") for entry in found.float_tensors)


@pytest.mark.parametrize(("bypass", "layer"), KEPT)
def test_without_the_declaration_nothing_is_excused(bypass: Bypass, layer: str, audited: Callable[..., Audit]) -> None:
    network, _, _ = mixed(bypass, layer)
    found = audited(network, None)
    assert len([line for line in found.violations if line.startswith("conv `")]) == len(network.kept_float)
    stored = [line for line in found.violations if line.startswith("the constant `")]
    assert len(stored) == len(network.kept_float)  # biases are floats in any package
    assert found.kept_float == ()


def test_a_float_convolution_more_than_declared_fails(audited: Callable[..., Audit]) -> None:
    network, _, _ = mixed()
    assert network.kept_float[2] == "fire2/expand3x3"
    found = audited(network, network.kept_float[:2])
    assert found.kept_float == network.kept_float[:2]
    assert [line.partition(" computes")[0] for line in found.violations] == [
        "conv `fire2_expand3x3_conv`",
        "relu `fire2_expand3x3_float`",
        "quantize `fire2_expand3x3_uint8`",
        "the constant `fire2_expand3x3_weight` is stored as float32[8,4,3,3]",
    ]


@pytest.mark.parametrize("wrong", ["conv10", "fire99", "fire2_squeeze1x1", "fire2/expand1x1_conv", ""])
def test_declaring_what_is_no_float_convolution_fails(wrong: str, audited: Callable[..., Audit]) -> None:
    """Also the same layer once more, by another name."""
    network, _, _ = mixed()
    found = audited(network, [*network.kept_float, wrong])
    assert found.violations == (f"the file says that `{wrong}` was kept in float, which is no convolution in float here",)
    assert found.kept_float == network.kept_float


def test_a_scheme_without_floats_excuses_none(audited: Callable[..., Audit]) -> None:
    network, _, _ = mixed()

    def change(model: Any) -> None:
        model.description.metadata.userDefined["squeeze_export.scheme"] = "w8"

    found = audited(network, network.kept_float, change)
    assert found.kept_float == ()
    assert "the file says that `fire2/squeeze1x1` was kept in float, which is no convolution in float here" in found.violations


def test_what_else_reads_a_kept_layers_weights_fails(audited: Callable[..., Audit]) -> None:
    """Also what reads a kept layer's result without being one: integers in between must not be left out."""
    network, _, _ = mixed()

    def sharing(model: Any) -> None:
        bind(model, "fire3_expand1x1_conv", "weight", "fire2_expand1x1_weight")

    found = audited(network, network.kept_float, sharing)
    assert any(line.startswith("conv `fire3_expand1x1_conv` computes in float") for line in found.violations)
    assert any(line.startswith("the constant `fire2_expand1x1_weight` is stored") for line in found.violations)
    assert found.kept_float == network.kept_float

    def unrounded(model: Any) -> None:
        bind(model, "fire3_squeeze1x1_conv", "x", "fire2_squeeze1x1")

    found = audited(network, network.kept_float, unrounded)
    assert any(line.startswith("conv `fire3_squeeze1x1_conv` computes in float") for line in found.violations)


def test_a_detour_beside_a_kept_layer_fails(audited: Callable[..., Audit]) -> None:
    """A concatenation of what a convolution that was not declared left unrounded."""
    network, _, _ = mixed(layer="conv10")

    def change(model: Any) -> None:
        bind(model, "fire3_concat_float", "values", "fire3_expand1x1_float")

    found = audited(network, network.kept_float, change)
    assert found.kept_float == ("conv10",)
    assert any(line.startswith("conv `fire3_expand1x1_conv` computes in float") for line in found.violations)
    assert any(line.startswith("concat `fire3_concat_float` computes in float") for line in found.violations)


def test_palettes_are_no_layers_kept_in_float(tmp_path: Path) -> None:
    graph = tiny()
    names = [conv.name for conv in graph.convs]
    write_draft(tmp_path / "a.mlpackage", coreml.emit(graph, PALETTE8, EmitOptions(), {KEPT_FLOAT_KEY: json.dumps(names)}))
    assert audit_of("coreml", tmp_path / "a.mlpackage").kept_float == ()
