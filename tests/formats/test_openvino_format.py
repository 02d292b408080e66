"""The audit of OpenVINO folders. Each kind of file that only pretends to be int8 must be found and named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeeze_export.core import Audit, EmitOptions, require
from squeeze_export.errors import BadInput
from squeeze_export.formats import audited as audit_of
from squeeze_export.formats import format_named
from squeeze_export.formats import openvino as format_
from squeeze_export.graph.quantized import INT8
from squeeze_export.targets import openvino as target
from tests.quantized_networks import five_convolutions

openvino = require("openvino", "openvino", without=("openvino_telemetry",))
op = openvino.opset8
CLAIM = '<squeeze_export><scheme value="int8" /></squeeze_export>'
Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An int8 network, as it is written."""
    return written(tmp_path / "net.openvino")


def written(folder: Path, **options: Any) -> Path:
    folder.mkdir()
    for name, data in target.emit(five_convolutions(), INT8, EmitOptions(**options), {}).items():
        (folder / name).write_bytes(data)
    return folder


def edited(folder: Path, edit: Edit) -> Audit:
    """The audit of a network in which something was changed."""
    model = openvino.Core().read_model((folder / "model.xml").read_bytes(), (folder / "model.bin").read_bytes())
    edit({node.get_friendly_name(): node for node in model.get_ops()})
    model.validate_nodes_and_infer_types()
    openvino.serialize(model, folder / "model.xml", folder / "model.bin")
    return audit_of("openvino", folder)


def reworded(folder: Path, old: str, new: str, count: int = 1) -> Path:
    """The folder with a piece of its XML replaced."""
    text = (folder / "model.xml").read_text(encoding="utf-8")
    assert old in text
    (folder / "model.xml").write_text(text.replace(old, new, count), encoding="utf-8")
    return folder


def put_before(nodes: dict[str, Any], name: str, operand: int, make: Callable[[Any], Any]) -> None:
    """Puts an operator between a node and one of its operands."""
    made = make(nodes[name].input_value(operand))
    nodes[name].input(operand).replace_source_output(made.output(0))


def quantized(source: Any, levels: int, high: Any = None) -> Any:
    low, high = op.constant(np.float32(0)), op.constant(np.float32(255)) if high is None else high
    return op.fake_quantize(source, low, high, low, high, levels, name="other")


def test_an_int8_network_passes(folder: Path) -> None:
    result = audit_of("openvino", folder)
    assert result.violations == ()
    assert result.float_operators == ("ReduceMean logits",)
    assert result.float_tensors == ("logits float32[1,5]",)
    kinds = ("Convolution", "FakeQuantize", "MaxPool", "Concat", "Add", "ReLU")
    assert [result.operators[kind] for kind in kinds] == [5, 7, 1, 1, 6, 4]
    assert result.weight_bytes["int8"] == sum(conv.weight.size for conv in five_convolutions().convs)
    assert result.weight_bytes["float32"] < 400
    assert set(result.weight_bytes) == {"int8", "float32", "int64"}


def test_float_input_and_softmax_are_listed_and_allowed(tmp_path: Path) -> None:
    result = audit_of("openvino", written(tmp_path / "a", input_dtype="float32", softmax=True, batch="dynamic"))
    assert result.violations == ()
    expected = ["Transpose input/nchw", "FakeQuantize input/steps", "ReduceMean logits", "SoftMax probabilities"]
    assert list(result.float_operators) == expected
    assert result.float_tensors[:2] == ("input float32[N,20,20,3]", "input/nchw float32[N,3,20,20]")


def test_scales_in_half_and_zero_points_are_allowed(folder: Path) -> None:
    """As another tool writes them."""

    def edit(nodes: dict[str, Any]) -> None:
        half = op.convert(op.constant(np.full((4, 1, 1, 1), 0.01, np.float16)), "f32")
        nodes["right/weight"].input(1).replace_source_output(half.output(0))
        put_before(nodes, "right/weight", 0, lambda source: op.subtract(source, op.constant(np.float32(3))))

    result = edited(folder, edit)
    assert result.violations == ()
    assert result.weight_bytes["float16"] == 8


def test_weights_in_float_in_a_network_otherwise_integer(folder: Path) -> None:
    def edit(nodes: dict[str, Any]) -> None:
        floats = op.constant(np.ones((4, 4, 3, 3), np.float32), name="floats")
        nodes["right/product"].input(1).replace_source_output(floats.output(0))

    result = edited(folder, edit)
    assert "Convolution `right/product` computes in float: its weights `floats` are not stored as integers" in result.violations
    assert "the constant `floats` is stored as float32[4,4,3,3]" in result.violations
    assert "Convolution right/product" in result.float_operators
    assert "floats float32[4,4,3,3]" in result.float_tensors
    assert not any("left" in text for text in result.violations)


def test_weights_quantized_when_the_file_is_opened(folder: Path) -> None:
    """Float weights behind a FakeQuantize: a runtime computes in integers. A file of ours holds these."""

    def edit(nodes: dict[str, Any]) -> None:
        floats = op.constant(np.ones((4, 4, 3, 3), np.float32), name="floats")
        low, high = op.constant(np.float32(-1)), op.constant(np.float32(1))
        nodes["right/product"].input(1).replace_source_output(op.fake_quantize(floats, low, high, low, high, 255).output(0))

    others = edited(folder, edit)
    assert (others.violations, others.untold) == ((), ())
    ours = audit_of("openvino", reworded(folder, "</rt_info>\n</net>", f"{CLAIM}</rt_info></net>"))
    assert ours.violations == ("the constant `floats` is stored as float32[4,4,3,3]",)
    assert all("floats float32[4,4,3,3]" in result.float_tensors for result in (others, ours))


def test_weights_hidden_in_a_scale(folder: Path) -> None:
    def edit(nodes: dict[str, Any]) -> None:
        scale = op.constant(np.ones((4, 4, 3, 3), np.float32), name="scale")
        nodes["right/weight"].input(1).replace_source_output(scale.output(0))

    assert "the constant `scale` is stored as float32[4,4,3,3]" in edited(folder, edit).violations


def test_no_quantization_of_the_input(folder: Path) -> None:
    def edit(nodes: dict[str, Any]) -> None:
        nodes["conv1/product"].input(0).replace_source_output(nodes["input/float"].output(0))

    result = edited(folder, edit)
    reason = "its input `input/float` is not quantized to 256 steps of one size, its weights alone are integers"
    assert f"Convolution `conv1/product` computes in float: {reason}" in result.violations
    assert "Convert input/float" in result.float_operators


@pytest.mark.parametrize("levels", [257, 65536])
def test_too_many_levels(folder: Path, levels: int) -> None:
    def edit(nodes: dict[str, Any]) -> None:
        nodes["conv10/product"].input(0).replace_source_output(quantized(nodes["concat"].output(0), levels).output(0))

    reason = "its input `other` is not quantized to 256 steps of one size, its weights alone are integers"
    assert f"Convolution `conv10/product` computes in float: {reason}" in edited(folder, edit).violations


def test_bounds_that_differ_by_channel_or_by_image(folder: Path) -> None:
    """Neither is one quantization of the tensor."""

    def by_channel(nodes: dict[str, Any]) -> None:
        high = op.constant(np.arange(1, 9, dtype=np.float32).reshape(1, 8, 1, 1))
        nodes["conv10/product"].input(0).replace_source_output(quantized(nodes["concat"].output(0), 256, high).output(0))

    def by_image(nodes: dict[str, Any]) -> None:
        high = op.reduce_max(nodes["concat"], op.constant(np.array([0, 1, 2, 3])), keep_dims=True)
        nodes["conv10/product"].input(0).replace_source_output(quantized(nodes["concat"].output(0), 256, high).output(0))

    for edit in (by_channel, by_image):
        violations = edited(folder, edit).violations
        assert any(text.startswith("Convolution `conv10/product` computes in float: its input `other`") for text in violations)


def test_an_operator_that_makes_other_values(folder: Path) -> None:
    """Between a sum and its FakeQuantize: neither belongs to the integers any more."""
    result = edited(folder, lambda nodes: put_before(nodes, "right/relu", 0, lambda source: op.sigmoid(source, name="sigmoid")))
    assert result.violations == (
        "Add `right/sum` computes in float before the last convolution",
        "Sigmoid `sigmoid` computes in float before the last convolution",
        "ReLU `right/relu` computes in float before the last convolution",
        "FakeQuantize `right` computes in float before the last convolution",
    )


def test_a_result_that_is_not_quantized(folder: Path) -> None:
    """The last product may give floats; one before another product may not."""

    def last(nodes: dict[str, Any]) -> None:
        nodes["logits"].input(0).replace_source_output(nodes["conv10/relu"].output(0))

    def inner(nodes: dict[str, Any]) -> None:
        nodes["concat"].input(1).replace_source_output(nodes["right/relu"].output(0))

    result = edited(folder, last)
    assert result.violations == ()
    assert result.float_operators == ("Add conv10/sum", "ReLU conv10/relu", "ReduceMean logits")
    violations = edited(folder, inner).violations
    assert "Concat `concat` computes in float before the last convolution" in violations
    assert any(text.startswith("Convolution `conv10/product` computes in float: its input `concat`") for text in violations)


@pytest.mark.parametrize("rounding", ["ceil", "ceil_torch"])
def test_a_pool_that_torch_rounds(folder: Path, rounding: str) -> None:
    """OpenVINO's CPU runs it, and the convolution behind it, in float; with the other modes in integers."""

    def edit(nodes: dict[str, Any]) -> None:
        side = [2, 2], [1, 1], [0, 0], [0, 0], [3, 3]
        pool = openvino.opset14.max_pool(nodes["conv1"], *side, rounding, "explicit", "i64", 0, name="pool")
        nodes["pool1"].output(0).replace(pool.output(0))

    violations = edited(folder, edit).violations
    found = "MaxPool `pool` computes in float before the last convolution" in violations
    assert found == any("bypass/product" in text for text in violations) == (rounding == "ceil_torch")
    model = openvino.Core().compile_model(folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    told = [{key: value.astype(str) for key, value in node.get_rt_info().items()} for node in model.get_runtime_model().get_ops()]
    pool = next(entry for entry in told if entry["layerType"] == "Pooling")
    assert (pool["runtimePrecision"] == "f32") == found


def test_a_float_detour_is_no_way_around(folder: Path) -> None:
    """A FakeQuantize behind other float operators is listed, though what follows it is quantized."""

    def edit(nodes: dict[str, Any]) -> None:
        put_before(nodes, "conv10/product", 0, lambda source: quantized(op.exp(source, name="exp"), 256))

    assert edited(folder, edit).violations == (
        "Exp `exp` computes in float before the last convolution",
        "FakeQuantize `other` computes in float before the last convolution",
    )


def test_what_cannot_be_seen_through(folder: Path) -> None:
    reworded(folder, 'type="ReduceMean" version="opset1"', 'type="Magic" version="extension"')
    assert "Magic `logits` cannot be seen through" in audit_of("openvino", folder).untold[0]
    reworded(folder, 'type="Magic" version="extension">', 'type="If" version="opset8"><then_body/>')
    assert "If `logits` cannot be seen through" in audit_of("openvino", folder).untold[0]


def test_a_network_without_a_product(folder: Path) -> None:
    def edit(nodes: dict[str, Any]) -> None:
        nodes["logits"].input(0).replace_source_output(nodes["input/steps"].output(0))

    assert edited(folder, edit).violations == ("the file holds no convolution",)


def test_a_float_that_nothing_reads(folder: Path) -> None:
    stray = '<layer id="999" name="stray" type="Const" version="opset1"><data element_type="f32" shape="2" offset="0" size="8" />'
    stray += '<output><port id="0" precision="FP32"><dim>2</dim></port></output></layer></layers>'
    result = audit_of("openvino", reworded(folder, "</layers>", stray))
    assert result.violations == ("the constant `stray` is stored as float32[2]",)


# ------------------------------------------------------------------------------------------------------------------ the reader

DOCTYPE = '<!DOCTYPE net [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('<?xml version="1.0"?>', f'<?xml version="1.0"?>{DOCTYPE}', "it declares a document type"),
        ("<net ", "<gross ", "mismatched tag"),
        ('<?xml version="1.0"?>', "no XML", "syntax error"),
        ('to-port="0" />', 'to-port="7" />', r"\(2, 0\)"),
        ('levels="256"', 'levels="1"', "has 1 levels"),
        ('levels="256"', 'levels="many"', "invalid literal"),
        ('levels="256"', "", "'levels'"),
        ('offset="0" size="32"', 'offset="0" size="99999"', "input/order lies outside the weights"),
        ('offset="0" size="32"', 'offset="-8" size="32"', "input/order lies outside the weights"),
        ('type="Transpose"', 'type="Result"', "many"),
        ("<layers>", "<layers/><x>", "mismatched tag"),
        ('type="MaxPool"', 'type="FakeQuantize" ', "has too few operands or results"),
        ('from-layer="0"', 'from-layer="404"', "404"),
    ],
)
def test_damaged_networks_are_refused(folder: Path, old: str, new: str, reason: str) -> None:
    reworded(folder, old, new)
    if reason == "many":
        with pytest.raises(BadInput, match="has `1` inputs and `2` outputs"):
            format_named("openvino").describe(folder)
        return
    for read in (format_.read, format_named("openvino").describe):
        with pytest.raises(BadInput, match=reason) as caught:
            read(folder)
        assert "is not a sound OpenVINO network" in caught.value.message
        assert "\n" not in caught.value.message


def test_truncated_files_are_refused(folder: Path) -> None:
    text = (folder / "model.xml").read_bytes()
    for kept in (0, 1, len(text) // 3, len(text) - 10):
        (folder / "model.xml").write_bytes(text[:kept])
        with pytest.raises(BadInput, match="is not a sound OpenVINO network"):
            audit_of("openvino", folder)
    (folder / "model.xml").write_bytes(text)
    (folder / "model.bin").write_bytes((folder / "model.bin").read_bytes()[:-100])
    with pytest.raises(BadInput, match="lies outside the weights"):
        audit_of("openvino", folder)


def test_a_network_of_something_else_is_refused(folder: Path) -> None:
    (folder / "model.xml").write_text("<html/>")
    with pytest.raises(BadInput, match="it holds a `html`"):
        audit_of("openvino", folder)


def test_a_circle_is_refused(folder: Path) -> None:
    xml = (folder / "model.xml").read_text()
    number = xml.split('name="pool1"')[0].rsplit('id="', 1)[1].split('"')[0]
    edge = next(line for line in xml.splitlines() if f'to-layer="{number}" to-port="0"' in line)
    reworded(folder, edge.strip(), f'<edge from-layer="{number}" from-port="1" to-layer="{number}" to-port="0" />')
    with pytest.raises(BadInput, match="cycle"):
        audit_of("openvino", folder)


def test_other_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read as a folder: No such file"):
        audit_of("openvino", tmp_path / "missing")
    with pytest.raises(BadInput, match="cannot be read as a folder: Not a directory"):
        audit_of("openvino", folder / "model.bin")
    (folder / "other.xml").write_text("<net/>")
    with pytest.raises(BadInput, match="does not hold one network"):
        audit_of("openvino", folder)
    (folder / "other.xml").unlink()
    (folder / "model.bin").rename(folder / "other.bin")
    with pytest.raises(BadInput, match="does not hold one network"):
        audit_of("openvino", folder)


def test_another_tools_names_are_read(folder: Path) -> None:
    for file in list(folder.iterdir()):
        file.rename(folder / f"openvino_model{file.suffix}")
    (folder / "config.json").write_text("{}")
    assert audit_of("openvino", folder).violations == ()


def test_a_single_xml_file_with_its_weights_is_read(folder: Path) -> None:
    """As every other tool writes a network: two files, in whatever folder, beside others."""
    (folder / "other.xml").write_text("<net/>")
    assert audit_of("openvino", folder / "model.xml").violations == ()
    source, result = format_named("openvino").describe(folder / "model.xml")
    assert (source.name, source.dtype, result.name) == ("input", "uint8", "logits")
    with pytest.raises(BadInput, match=r"other.xml` has no weights: `other.bin` is not beside it"):
        audit_of("openvino", folder / "other.xml")
    (folder / "model.xml").rename(folder / "gone.txt")
    with pytest.raises(BadInput, match=r"model.xml` cannot be read: No such file"):
        audit_of("openvino", folder / "model.xml")


def test_a_folder_that_is_called_xml_is_a_folder(tmp_path: Path) -> None:
    assert audit_of("openvino", written(tmp_path / "net.xml")).violations == ()


def test_too_large_or_unreadable_files_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", deny)
        with pytest.raises(BadInput, match=r"model.xml` cannot be read: Permission denied"):
            audit_of("openvino", folder)
    monkeypatch.setattr(format_, "MAX_WEIGHT_BYTES", 10)
    with pytest.raises(BadInput, match="is larger than 64 MiB of XML"):
        audit_of("openvino", folder)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('precision="U8" names="input"', 'precision="I32" names="input"', "it takes `int32`"),
        ("<dim>3</dim>\n\t\t\t\t\t<rt_info>", "<dim>4</dim>\n\t\t\t\t\t<rt_info>", r"it takes `uint8` `\(1, 20, 20, 4\)`"),
        ('precision="FP32" names="logits"', 'precision="FP16" names="logits"', "it gives `float16`"),
    ],
)
def test_describe_refuses_what_is_no_image_classifier(folder: Path, old: str, new: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        format_named("openvino").describe(reworded(folder, old, new))


def test_names_and_layouts_of_others(folder: Path) -> None:
    """A tensor without a name has its operator's; channels may come first; a type without a name in numpy stays as it is."""
    reworded(folder, ' names="logits"', "")
    reworded(folder, "<dim>20</dim>\n\t\t\t\t\t<dim>20</dim>\n\t\t\t\t\t<dim>3</dim>", "<dim>3</dim><dim>20</dim><dim>20</dim>")
    source, result = format_named("openvino").describe(folder)
    assert (source.layout, source.shape, result.name) == ("NCHW", (1, 3, 20, 20), "logits")
    reworded(folder, 'precision="U8" names="input"', 'precision="STRING" names="input"')
    with pytest.raises(BadInput, match="it takes `string`"):
        format_named("openvino").describe(folder)


def test_a_long_chain_is_read(folder: Path) -> None:
    """Depth is no danger: nothing calls itself."""
    count = 3000
    layer = '<layer id="{0}" name="n{0}" type="ReLU" version="opset1"><input><port id="0" precision="FP32"/></input>'
    layer += '<output><port id="1" precision="FP32"/></output></layer>'
    layers = "".join(layer.format(number) for number in range(1000, 1000 + count))
    edges = "".join(
        f'<edge from-layer="{number - 1}" from-port="1" to-layer="{number}" to-port="0"/>' for number in range(1001, 1000 + count)
    )
    first = '<edge from-layer="3" from-port="1" to-layer="1000" to-port="0"/>'
    reworded(folder, "</layers>", f"{layers}</layers>")
    reworded(folder, "</edges>", f"{first}{edges}</edges>")
    assert audit_of("openvino", folder).operators["ReLU"] == count + 4
    assert os.path.getsize(folder / "model.xml") > 300_000
