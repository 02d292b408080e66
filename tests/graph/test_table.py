"""The table file: what goes in comes out, byte for byte, and every kind of damage is one line that says what is wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from squeeze_export.core import CAFFE
from squeeze_export.errors import BadInput
from squeeze_export.graph import table
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import MaxPool, QuantizedConv
from squeeze_export.graph.quantized import SCHEMES, QuantizedGraph, scheme_named
from squeeze_export.graph.run import FloatRunner
from squeeze_export.graph.table import ARRAYS_SHA256, SHA256, arrays_sha256, read_table, table_bytes, table_difference
from squeeze_export.nets.architecture import Architecture, Fire, tensor_shapes
from squeeze_export.quant.recipes import quantize

HEADER = "squeeze_export_table"


@cache
def small() -> QuantizedGraph:
    """Every kind of node, labels that are not ASCII, and provenance."""
    arch = Architecture("small", 4, 3, (Fire(2, 3, 5, "complex"), Fire(2, 3, 5)), (0,), 6)
    rng = np.random.default_rng(0)
    tensors = {key: rng.normal(0, 0.3, shape).astype(np.float32) for key, shape in tensor_shapes(arch).items()}
    labels = tuple(f"étiquette {i}" for i in range(6))
    graph = build_graph(arch, tensors, replace(CAFFE, resize_px=36, crop_px=34), labels=labels, checkpoint_sha256="c0ffee")
    return quantize(graph, pixels(16), FloatRunner(graph), scheme_named("int8"), provenance={"image_sha256": ["a", "b"]})


def pixels(count: int) -> Any:
    return np.random.default_rng(1).integers(0, 256, (count, 34, 34, 3), np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "small.int8.table"
    file.write_bytes(table_bytes(small()))
    return file


def test_reading_and_writing_again_gives_the_same_bytes(path: Path) -> None:
    again = read_table(path)
    assert table_bytes(again) == path.read_bytes()
    assert again.sha256 == small().sha256 == hashlib.sha256(table_bytes(small(), checksum=False)).hexdigest()
    assert header_of(path)[SHA256] == again.sha256


def test_a_table_read_back_gives_the_same_logits(path: Path) -> None:
    np.testing.assert_array_equal(IntegerRunner(read_table(path))(pixels(3)), IntegerRunner(small())(pixels(3)))


def test_everything_beside_the_integers_survives(path: Path) -> None:
    again, first = read_table(path), small()
    for name in ("name", "input", "output", "scheme", "preprocess", "labels", "provenance", "tensors", "sizes"):
        assert getattr(again, name) == getattr(first, name), name
    assert again.checkpoint_sha256 == "c0ffee"
    assert [node.name for node in again.consumers["pool1"]] == ["fire2/squeeze1x1", "fire2/bypass1x1"]
    for read, written in zip(again.nodes, first.nodes, strict=True):
        if isinstance(written, QuantizedConv):
            assert asdict(read).keys() == asdict(written).keys()
            np.testing.assert_equal(asdict(read), asdict(written))
        else:
            assert read == written


@settings(max_examples=40)
@given(st.lists(st.text(), min_size=6, max_size=6), st.dictionaries(st.text(), st.text() | st.integers()))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, labels: list[str], provenance: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("table") / "t"
    path.write_bytes(table_bytes(replace(small(), labels=tuple(labels), provenance=provenance)))
    again = read_table(path)
    assert (again.labels, again.provenance) == (tuple(labels), provenance)


def test_another_integer_gives_another_hash() -> None:
    conv = small().convs[0]
    weight = conv.weight.copy()
    weight[0, 0, 0, 0] ^= 1
    nodes = tuple(replace(node, weight=weight) if node is conv else node for node in small().nodes)
    assert replace(small(), nodes=nodes).sha256 != small().sha256


def header_of(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, "numpy") as file:
        header: dict[str, Any] = json.loads(file.metadata()[HEADER])
    return header


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], object], *, sealed: bool = True) -> None:
    """Writes the table again after `change(header, arrays)`; `sealed` as an earlier version would: with the checksum of the
    arrays that it then has, and none of the header.
    """
    header = header_of(path)
    with safetensors.safe_open(path, "numpy") as file:
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(header, arrays)
    if sealed:
        header[ARRAYS_SHA256] = arrays_sha256(arrays)
        header.pop(SHA256, None)
    path.write_bytes(safetensors.numpy.save(arrays, {HEADER: json.dumps(header)}))


def refusal(path: Path) -> BadInput:
    with pytest.raises(BadInput) as caught:
        read_table(path)
    assert "\n" not in caught.value.message
    assert str(path) in caught.value.message
    return caught.value


def test_rewriting_alone_is_no_damage(path: Path) -> None:
    rewrite(path, lambda header, arrays: None)
    assert read_table(path).sha256 == small().sha256


def node(header: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(entry for entry in header["nodes"] if entry["kind"] == kind)


DAMAGE: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], object], str]] = {
    "weight of a wrong dtype": (lambda h, a: a.update({"conv1.weight": a["conv1.weight"].astype(np.int16)}), "conv1"),
    "scale of a wrong dtype": (lambda h, a: a.update({"conv1.weight_scale": np.ones(4)}), "conv1"),
    "bias of a wrong dtype": (lambda h, a: a.update({"conv1.bias": np.ones(4, np.int64)}), "conv1"),
    "weight of a wrong rank": (lambda h, a: a.update({"conv1.weight": np.ones((4, 27), np.int8)}), "conv1"),
    "weight of a wrong shape": (lambda h, a: a.update({"conv1.weight": np.ones((4, 2, 3, 3), np.int8)}), "conv1 has weights"),
    "empty kernel": (lambda h, a: a.update({"conv1.weight": np.ones((4, 3, 3, 0), np.int8)}), "kernel, stride or pads of conv1"),
    "bias of a wrong length": (lambda h, a: a.update({"conv1.bias": np.ones(3, np.int32)}), "bias of conv1"),
    "scales of a wrong length": (lambda h, a: a.update({"conv1.weight_scale": np.ones(1, np.float32)}), "scales of conv1"),
    "weight scale 0": (lambda h, a: a.update({"conv1.weight_scale": np.zeros(4, np.float32)}), "a weight scale of conv1"),
    "weight scale NaN": (lambda h, a: a.update({"conv1.weight_scale": np.full(4, np.nan, np.float32)}), "a weight scale"),
    "weight scale infinite": (lambda h, a: a.update({"conv1.weight_scale": np.full(4, np.inf, np.float32)}), "a weight scale"),
    "missing tensor": (lambda h, a: a.pop("conv10.bias"), "conv10.bias"),
    "scale 0": (lambda h, a: h["tensors"].update(conv10=[0.0, 0]), "scale 0.0"),
    "scale below 0": (lambda h, a: h["tensors"].update(conv10=[-1.0, 0]), "scale -1.0"),
    "scale NaN": (lambda h, a: h["tensors"].update(conv10=[float("nan"), 0]), "scale nan"),
    "scale beyond float32": (lambda h, a: h["tensors"].update(conv10=[1e300, 0]), "scale 1e"),
    "scale beyond float64": (lambda h, a: h["tensors"].update(conv10=[10**400, 0]), "too large"),
    "scale no float32 value": (lambda h, a: h["tensors"].update(conv10=[0.1, 0]), "scale 0.1"),
    "zero point 256": (lambda h, a: h["tensors"].update(conv10=[1.0, 256]), "zero point 256"),
    "zero point infinite": (lambda h, a: h["tensors"].update(conv10=[1.0, float("inf")]), "infinity"),
    "scaled pixels": (lambda h, a: h["tensors"].update(input=[0.5, 0]), "raw pixels"),
    "no scale for the input": (lambda h, a: h["tensors"].pop("input"), "input"),
    "no scale for a tensor": (lambda h, a: h["tensors"].pop("conv10"), "conv10"),
    "two scales in a concat": (lambda h, a: h["tensors"].update({"fire2/concat": [0.5, 0]}), "different scales"),
    "unknown kind": (lambda h, a: node(h, "Add").update(kind="Sub"), "Sub"),
    "unknown input": (lambda h, a: node(h, "Add").update(inputs=["x", "y"]), "KeyError"),
    "no inputs": (lambda h, a: node(h, "Concat").update(inputs=[]), "IndexError"),
    "two nodes of one name": (lambda h, a: h["nodes"].insert(1, h["nodes"][0]), "two nodes of one name"),
    "nodes out of order": (lambda h, a: h["nodes"].reverse(), "KeyError"),
    "no average pool": (lambda h, a: h["nodes"].pop(), "average pool"),
    "stride 0": (lambda h, a: node(h, "MaxPool").update(stride=0), "ZeroDivisionError"),
    "stride below 0": (lambda h, a: node(h, "MaxPool").update(stride=-1, kernel=40), "pool1"),
    "three strides": (lambda h, a: node(h, "MaxPool").update(stride=[1, 1, 1]), "too many values"),
    "a stride of text": (lambda h, a: node(h, "MaxPool").update(stride="two"), "invalid literal"),
    "kernel 0": (lambda h, a: node(h, "MaxPool").update(kernel=0), "pool1"),
    "pads below 0": (lambda h, a: node(h, "MaxPool").update(pads=[-1, 0, 0, 0]), "pool1"),
    "pads without end": (lambda h, a: node(h, "MaxPool").update(pads=[10**9, 10**9, 0, 0]), "pool1 is 5000"),
    "two pads": (lambda h, a: node(h, "MaxPool").update(pads=[0, 0]), "not enough values"),
    "sizes that do not add": (lambda h, a: node(h, "Add").update(inputs=["conv1", "fire2/concat"]), "different sizes"),
    "input without end": (lambda h, a: h["input"].update(shape=["N", 10**9, 10**9, 3]), "1000000000"),
    "input of another size": (lambda h, a: h["input"].update(shape=["N", 36, 36, 3]), "not the preprocessing's crop"),
    "input of a symbolic size": (lambda h, a: h["input"].update(shape=["N", "H", "W", 3]), "invalid literal"),
    "other class count": (lambda h, a: h["output"].update(shape=["N", 7]), "6 classes"),
    "too few labels": (lambda h, a: h.update(labels=["a"]), "6 classes"),
    "a float scheme": (lambda h, a: h.update(scheme="fp32"), "scheme fp32"),
    "no provenance": (lambda h, a: h.update(provenance=None), "NoneType"),
    "foreign preprocessing": (lambda h, a: h["preprocess"].update(gamma=1), "gamma"),
    "no nodes": (lambda h, a: h.pop("nodes"), "nodes"),
    "tensors as a list": (lambda h, a: h.update(tensors=[]), "items"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_refused(what: str, path: Path) -> None:
    change, message = DAMAGE[what]
    rewrite(path, change)
    err = refusal(path)
    assert message in err.message
    assert "is damaged" in err.message
    assert err.hint == "make one with: squeeze-export calibrate --weights FILE --calib DIR"


OF_ANOTHER_SCHEME: dict[str, tuple[str, str]] = {
    "int8-symmetric": ("scale", "zero point 0 of conv1"),
    "int8-per-tensor": ("conv1", "more than one weight scale"),
    "int8-npu": ("logits", "no scale"),
    "int16x8": ("scale", "zero point 0 of conv1"),
}


@pytest.mark.parametrize("scheme", OF_ANOTHER_SCHEME)
def test_integers_that_are_not_of_the_schemes_kind_are_refused(scheme: str, path: Path) -> None:
    rewrite(path, lambda h, a: h.update(scheme=scheme))
    for part in OF_ANOTHER_SCHEME[scheme]:
        assert part in refusal(path).message


def test_logits_have_no_scale_where_they_are_floats(path: Path) -> None:
    rewrite(path, lambda h, a: h["tensors"].update(logits=[1.0, 0]))
    assert "logits has a scale" in refusal(path).message


@pytest.mark.parametrize("part", ["weight", "weight_scale", "bias"])
def test_one_flipped_bit_is_refused(part: str, path: Path) -> None:
    """Each such value is a valid one: only the checksum tells."""
    array = getattr(small().convs[1], part)
    written, value = path.read_bytes(), array.tobytes()
    assert written.count(value) == 1
    place = written.index(value) + 2
    path.write_bytes(written[:place] + bytes([written[place] ^ 1]) + written[place + 1 :])
    err = refusal(path)
    assert err.message == f"the table `{path}` is damaged: ValueError('the arrays do not match their checksum')"
    assert err.hint == "make one with: squeeze-export calibrate --weights FILE --calib DIR"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, a: a.update({"conv10.bias": a["conv10.bias"][::-1].copy()}), "do not match their checksum"),
        (lambda h, a: a.update({"conv1.bias": a["conv10.bias"], "conv10.bias": a["conv1.bias"]}), "do not match their checksum"),
        (lambda h, a: a.update(more=np.zeros(1, np.int8)), "do not match their checksum"),
        (lambda h, a: h.update({ARRAYS_SHA256: None}), "do not match their checksum"),
        (lambda h, a: h.pop(ARRAYS_SHA256), "has no checksum"),
    ],
    ids=["other values", "swapped", "one more", "null", "none"],
)
def test_the_checksum_is_of_names_and_values(change: Callable[..., object], message: str, path: Path) -> None:
    rewrite(path, change, sealed=False)
    assert message in refusal(path).message


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["labels"].__setitem__(0, "etiquette 0"),
        lambda header: header["provenance"].update(seed=1),
        lambda header: header["preprocess"].update(resize_px=37),
        lambda header: header.update(name="smalm"),
        lambda header: header["tensors"]["conv10"].__setitem__(1, header["tensors"]["conv10"][1] ^ 1),
        lambda header: header.update({SHA256: "0" * 64}),
    ],
    ids=["label", "provenance", "preprocessing", "name", "zero point", "itself"],
)
def test_the_header_has_a_checksum_too(change: Callable[[dict[str, Any]], object], path: Path) -> None:
    """Each such header is a valid one: only the checksum tells. Tables of earlier versions have none, and are read."""
    rewrite(path, lambda header, arrays: change(header), sealed=False)
    assert "the header does not match its checksum" in refusal(path).message
    rewrite(path, lambda header, arrays: header.pop(SHA256), sealed=False)
    read_table(path)


def test_a_key_that_no_table_has_is_refused(path: Path) -> None:
    """A flipped bit in the checksum's own key would take the checksum away."""
    rewrite(path, lambda header, arrays: header.update(sha257=header.pop(SHA256)), sealed=False)
    assert "its header holds 'sha257'" in refusal(path).message


def test_the_difference_of_a_table(path: Path) -> None:
    assert table_difference(path) == ("", "")
    written = path.read_bytes()
    path.write_bytes(table_bytes(small(), checksum=False))
    assert table_difference(path) == ("", "an earlier version wrote it, without a checksum of its header")
    rewrite(path, lambda header, arrays: header.update(labels=header.pop("labels")))  # the same in another order
    assert "its bytes are not those that this tool writes" in table_difference(path)[0]
    place = written.index(b'"conv10') + 3
    path.write_bytes(written[:place] + bytes([written[place] ^ 1]) + written[place + 1 :])
    assert str(path) in table_difference(path)[0]
    with pytest.raises(BadInput, match="cannot be read"):
        table_difference(path.with_name("none"))


def test_any_flipped_bit_is_found(path: Path) -> None:
    written = path.read_bytes()
    draw = np.random.default_rng(7)
    header_bytes = 8 + int.from_bytes(written[:8], "little")
    for place, bit in zip((*range(8), *draw.integers(8, header_bytes, 80)), draw.integers(0, 8, 88), strict=True):
        path.write_bytes(written[:place] + bytes([written[place] ^ (1 << int(bit))]) + written[place + 1 :])
        assert table_difference(path)[0], (place, bit)


def test_the_checksum_by_hand() -> None:
    arrays = {"b": np.array([[-1]], np.int8), "a": np.array([1, 2], np.int32)}
    by_hand = b"a <i4 (2,)\n" + bytes([1, 0, 0, 0, 2, 0, 0, 0]) + b"b |i1 (1, 1)\n" + bytes([255])
    assert arrays_sha256(arrays) == hashlib.sha256(by_hand).hexdigest()


def test_an_unknown_scheme_is_named(path: Path) -> None:
    rewrite(path, lambda header, arrays: header.update(scheme="int7"))
    with pytest.raises(BadInput, match="`int7`") as caught:
        read_table(path)
    assert caught.value.hint == f"did you mean `int8`? one of: {', '.join(SCHEMES)}"


def test_a_newer_version_is_named(path: Path) -> None:
    rewrite(path, lambda header, arrays: header.update(version=2))
    assert "is a table of version `2`; this tool reads version 1" in refusal(path).message


@pytest.mark.parametrize("kept", [0, 7, 200, -1])
def test_a_truncated_file_is_no_table(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    assert "is not a quantization table" in refusal(path).message


def test_a_checkpoint_is_no_table(path: Path) -> None:
    path.write_bytes(safetensors.numpy.save({"conv1.weight": np.zeros(3, np.float32)}))
    assert "is not a quantization table" in refusal(path).message


@pytest.mark.parametrize("header", ["", "[]", "{", "3", "[" * 100_000], ids=["empty", "list", "cut", "number", "deep"])
def test_a_header_that_is_no_header_is_damage(path: Path, header: str) -> None:
    path.write_bytes(safetensors.numpy.save({}, {HEADER: header}))
    assert "is damaged" in refusal(path).message


def test_a_huge_file_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = path.stat().st_size
    monkeypatch.setattr(table, "MAX_TABLE_BYTES", size)
    read_table(path)
    monkeypatch.setattr(table, "MAX_TABLE_BYTES", size - 1)
    assert f"larger than any table (`{size - 1}` bytes)" in refusal(path).message


def test_what_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refusal(tmp_path / "none").message
    assert "cannot be read" in refusal(tmp_path).message


def test_other_integers_give_other_logits(path: Path) -> None:
    """Negative control of the round trip."""
    rewrite(path, lambda header, arrays: arrays["conv10.bias"].__iadd__(50))
    changed = read_table(path)
    assert changed.sha256 != small().sha256
    assert (IntegerRunner(changed)(pixels(3)) != IntegerRunner(small())(pixels(3))).any()


def test_pools_of_a_table_are_max_pools(path: Path) -> None:
    assert [node.pads for node in read_table(path).nodes if isinstance(node, MaxPool)] == [(0, 0, 1, 1), (0, 0, 1, 1)]
