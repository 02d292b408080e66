"""Core ML packages as they are read: the same as coremltools reads them, and refused where they are damaged or hostile.

The packages are written by coremltools' own builder.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_packages import (
    SPEC,
    WEIGHTS,
    blobs,
    block_of,
    change_bytes,
    change_model,
    copied,
    message_of,
    operation_of,
    point,
    program_in,
    real,
    set_type,
    value_of,
    written,
)

from squeeze_export.errors import BadInput
from squeeze_export.formats import audited
from squeeze_export.formats.coreml import package as reader
from squeeze_export.formats.coreml.classifier import Classifier, read_classifier
from squeeze_export.formats.coreml.program import Program


@pytest.fixture(scope="session")
def with_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of three labels, whose one output is a dictionary."""

    def build(mb: Any, x: Any) -> Any:
        return mb.softmax(x=mb.reduce_mean(x=x, axes=[2, 3], name="sums"), axis=-1, name="probabilities")

    return written(tmp_path_factory.mktemp("labels"), build, color="RGB", classes=("a", "b", "c"))


@pytest.fixture(scope="session")
def open_batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes an array of 1 to 4 images."""

    def build(mb: Any, x: Any) -> Any:
        return mb.reduce_mean(x=x, axes=[1, 2], name="logits")

    return written(tmp_path_factory.mktemp("open"), build, (1, 8, 8, 3), name="input", most=4)


@pytest.fixture
def package(int8_mlpackage: Path, tmp_path: Path) -> Path:
    """An int8 network of two convolutions that takes an image of 8 px."""
    return copied(int8_mlpackage, tmp_path)


def constants(program: Program) -> list[Any]:
    """The values of every constant, in the program's order."""
    bound = (entry for operation in program.operations for entries in operation.arguments.values() for entry in entries)
    return [entry.array for entry in bound if not isinstance(entry, str)]


def read(path: Path) -> tuple[Classifier, list[Any]]:
    """All of a package, as a session reads it. The audit, which leaves values unread, gives an answer or refuses."""
    with suppress(BadInput):
        audited("coreml", path)
    classifier = read_classifier(path)
    return classifier, constants(classifier.program)


def damage(path: Path) -> str:
    """What is wrong with a package: one line."""
    with pytest.raises(ValueError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "uint8", "int16", "uint16", "int32", "uint32"])
@pytest.mark.parametrize("count", [3, 64])
def test_constants_of_every_type(tmp_path: Path, dtype: str, count: int) -> None:
    """In the model file and in `weight.bin`; compared with the array that coremltools was given."""
    values = np.random.default_rng(1).normal(0, 40, (1, count)).astype(dtype)

    def build(mb: Any, x: Any) -> Any:
        mb.const(val=values, name="held")
        return mb.add(x=x, y=x, name="sum")

    path = written(tmp_path, build, (1, 3), ios=18)
    held = next(operation for operation in program_in(path).operations if operation.name == "held")
    found = held.arguments["val"][0]
    assert not isinstance(found, str)
    assert found.dtype == found.array.dtype.name == dtype
    np.testing.assert_array_equal(found.array, values)
    assert ((path / WEIGHTS).exists() and (path / WEIGHTS).stat().st_size > 64) == (count == 64)


def test_a_model_file_reads_as_coremltools_reads_it(package: Path) -> None:
    expected = block_of(message_of((package / SPEC).read_bytes()))
    program = program_in(package)
    assert program.outputs == tuple(expected.outputs)
    assert len(program.operations) == len(expected.operations) > 40
    for found, operation in zip(program.operations, expected.operations, strict=True):
        assert found.operator == operation.type
        assert [output.name for output in found.outputs] == [output.name for output in operation.outputs]
        names = {key: [entry.name for entry in value.arguments] for key, value in operation.inputs.items()}
        assert {key: list(found.arguments[key]) for key in names} == names
        for output, declared in zip(found.outputs, operation.outputs, strict=True):
            sizes = [dimension.constant.size for dimension in declared.type.tensorType.dimensions]
            assert output.type is not None
            assert list(output.type.shape) == sizes


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, b"\xff", "announces `255` blobs and ends"),
        (0, b"\x01", "goes on behind the last"),
        (4, b"\x01", "no header of version `2`"),
        (20, b"\x01", "no header of version `2`"),
        (64, b"\x00", "no blob at `64`"),
        (68, b"\x03", "has the data type `3`"),
        (68, b"\x63", "has the data type `99`"),
        (72, b"\x01", "the blob at `64` has `"),
        (72, struct.pack("<Q", 2**63), "claims `9223372036854775808` bytes"),
        (80, b"\x81", "no blob at `64`"),
        (88, b"\x01", "leaves `1` bits unused"),
        (88, b"\x08", "no blob at `64`"),
        (100, b"\x01", "no blob at `64`"),
    ],
)
def test_a_changed_header_in_weight_bin_is_refused(package: Path, at: int, value: bytes, reason: str) -> None:
    read(package)
    change_bytes(package / WEIGHTS, at, value)
    assert reason in damage(package)


def test_something_between_the_blobs_is_refused(package: Path) -> None:
    """Whatever no constant reads may not be changed either."""
    end = next(start + size for start, size in blobs(package) if (start + size) % 64)
    change_bytes(package / WEIGHTS, end, b"\x01")
    assert f"something behind the blob that ends at `{end}`" in damage(package)


def test_a_number_that_is_not_finite_is_refused(package: Path) -> None:
    content = (package / WEIGHTS).read_bytes()
    floats = next(start for start, size in blobs(package) if struct.unpack_from("<I", content, start - 60)[0] == 2)
    change_bytes(package / WEIGHTS, floats, struct.pack("<f", float("nan")))
    assert "no finite number" in damage(package)


@pytest.mark.parametrize("keep", [0, 1, 63, 64, 100, 200, -1])
def test_a_truncated_weight_bin_is_refused(package: Path, keep: int) -> None:
    content = (package / WEIGHTS).read_bytes()
    (package / WEIGHTS).write_bytes(content[:keep])
    assert "`weight.bin`" in damage(package)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_a_truncated_model_file_is_refused(package: Path, share: float) -> None:
    content = (package / SPEC).read_bytes()
    (package / SPEC).write_bytes(content[: int(len(content) * share)])
    damage(package)


@pytest.mark.uncounted  # the same lines a thousand times
def test_a_changed_model_file_is_read_or_refused_and_never_breaks(package: Path) -> None:
    content = (package / SPEC).read_bytes()
    draw = np.random.default_rng(5)
    found = []
    for _ in range(300):
        at = int(draw.integers(len(content)))
        change_bytes(package / SPEC, at, bytes([content[at] ^ int(draw.integers(1, 256))]))
        try:
            read(package)
        except ValueError as err:
            found.append(str(err))
        (package / SPEC).write_bytes(content)
    assert len(found) > 100
    assert not any("\n" in reason for reason in found)


def test_what_is_no_folder_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.mlpackage").write_bytes(b"no package")
    assert "a package is a folder" in damage(tmp_path / "a.mlpackage")
    with pytest.raises(BadInput, match="cannot be read"):
        read(tmp_path / "b.mlpackage")
    (tmp_path / "c.mlpackage").mkdir()
    assert "no `Manifest.json`" in damage(tmp_path / "c.mlpackage")


def test_a_link_in_a_package_is_refused(package: Path) -> None:
    (package / WEIGHTS).rename(package.parent / "weight.bin")
    (package / WEIGHTS).symlink_to(package.parent / "weight.bin")
    with pytest.raises(BadInput, match="no plain file"):
        read(package)


def changed_manifest(package: Path, change: Callable[[Any], Any]) -> None:
    path = package / "Manifest.json"
    manifest = json.loads(path.read_bytes())
    changed = change(manifest)
    path.write_text(json.dumps(manifest if changed is None else changed))


def redirected(name: str, path: str) -> Callable[[Any], None]:
    def change(manifest: Any) -> None:
        for entry in manifest["itemInfoEntries"].values():
            if entry["name"] == name:
                entry["path"] = path

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (redirected("model.mlmodel", "../../../../../../etc/passwd"), "`../../../../../../etc/passwd`, which leads out"),
        (redirected("model.mlmodel", "/etc/passwd"), "`/etc/passwd`, which leads out"),
        (redirected("weights", "../.."), "`../..`, which leads out"),
        (redirected("model.mlmodel", "com.apple.CoreML/other.mlmodel"), "which is no file in it"),
        (redirected("model.mlmodel", "com.apple.CoreML/weights/weight.bin"), "the number 0"),
        (redirected("weights", "com.apple.CoreML/other"), "no weight file that the manifest names"),
        (lambda manifest: manifest.pop("rootModelIdentifier") and None, "rootModelIdentifier"),
        (lambda manifest: [1], "indices"),
        (lambda manifest: {"itemInfoEntries": [], "rootModelIdentifier": ""}, "items"),
        (lambda manifest: manifest | {"more": "x" * 1_000_001}, "`Manifest.json` has"),
    ],
)
def test_a_hostile_manifest_is_refused(package: Path, change: Callable[[Any], Any], reason: str) -> None:
    changed_manifest(package, change)
    assert reason in damage(package)


def test_a_manifest_that_is_no_json(package: Path) -> None:
    for content in (b"", b"{", b"\xff\xfe", b"[" * 100_000):
        (package / "Manifest.json").write_bytes(content)
        damage(package)


def test_a_model_file_above_the_limit_is_not_parsed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_MODEL_BYTES", 1000)
    assert "`1000` are possible" in damage(package)


def program_change(change: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda model: change(model.mlProgram)


def add_function(program: Any) -> None:
    program.functions["other"].CopyFrom(program.functions["main"])


def second_input(program: Any) -> None:
    program.functions["main"].inputs.add().CopyFrom(program.functions["main"].inputs[0])


def make_twice(model: Any) -> None:
    block_of(model).operations.add().CopyFrom(operation_of(model, "conv"))


def no_output(model: Any) -> None:
    del operation_of(model, "relu").outputs[:]


def both_ways(model: Any) -> None:
    operation = operation_of(model, "conv")
    operation.attributes["pad_type"].CopyFrom(operation_of(model, "const").attributes["val"])


def blob_elsewhere(name: str, offset: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        stored = operation_of(model, "constexpr_affine_dequantize").attributes["quantized_data"].blobFileValue
        stored.fileName, stored.offset = name or stored.fileName, offset

    return change


def blob_size(model: Any) -> None:
    stored = operation_of(model, "constexpr_affine_dequantize").attributes["quantized_data"]
    stored.type.tensorType.dimensions[0].constant.size = 17


def other_opset(program: Any) -> None:
    program.functions["main"].opset = "CoreML99"


def dictionary(description: Any) -> None:
    description.output[0].type.dictionaryType.stringKeyType.SetInParent()


def described(change: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda model: change(model.description)


def grey(description: Any) -> None:
    description.input[0].type.imageType.colorSpace = 10


def wider(description: Any) -> None:
    description.input[0].type.imageType.width = 9


def two_inputs(description: Any) -> None:
    description.input.add().CopyFrom(description.input[0])


def renamed(description: Any) -> None:
    description.output[0].name = "other"


def called_classifier(description: Any) -> None:
    description.predictedProbabilitiesName = "logits"


HOSTILE: dict[str, tuple[Callable[[Any], None], str]] = {
    "no program": (lambda model: model.ClearField("mlProgram"), "no ML program"),
    "another kind": (lambda model: model.neuralNetwork.SetInParent(), "no ML program"),
    "program version": (program_change(lambda program: setattr(program, "version", 2)), "a program of version `2`"),
    "two functions": (program_change(add_function), "not 1 with `main`"),
    "attributes": (program_change(lambda program: program.attributes["fast"].SetInParent()), "the attributes `.*fast"),
    "second input": (program_change(second_input), "`2` inputs"),
    "no result": (no_output, "gives nothing"),
    "made twice": (make_twice, "`conv1_sum` is made twice"),
    "bound twice": (both_ways, "both as an attribute and as an input"),
    "nothing bound": (point("conv", "x"), "has nothing for `x`"),
    "not yet made": (point("conv", "x", "logits"), "takes `logits`, which nothing before it makes"),
    "unknown output": (lambda model: block_of(model).outputs.append("other"), "`other`, which nothing makes"),
    "no outputs": (lambda model: block_of(model).ClearField("outputs"), "gives ``"),
    "unknown dtype": (set_type("conv1", 99), "unknown data type `99`"),
    "rank": (set_type("conv1", 0, None, 3), "rank `3` has `4` dimensions"),
    "scale infinite": (value_of("quantize", "scale", real(float("inf"))), "no finite number"),
    "blob file": (blob_elsewhere("/etc/passwd", 64), "`/etc/passwd`, which is no weight file"),
    "blob path": (blob_elsewhere("@model_path/../../Manifest.json", 64), "no weight file"),
    "blob offset": (blob_elsewhere("", 65), "no blob at `65`"),
    "another blob": (blob_elsewhere("", 2**40), "no blob at"),
    "data as a blob": (blob_elsewhere("", 128), "no blob at `128`"),
    "another size": (blob_size, r"has `432` bytes, `int8\[17, 3, 3, 3\]` has `459`"),
    "other opset": (program_change(other_opset), "the operator set `CoreML99`, written in `CoreML7`"),
    "dictionary": (described(dictionary), "its output `logits` is no array"),
    "grey": (described(grey), r"`\[1, 1, 8, 8\]`, its program takes `float32\[1, 3, 8, 8\]`"),
    "width": (described(wider), r"its input `image` is `\[1, 3, 8, 9\]`"),
    "two inputs": (described(two_inputs), "its model has `2` inputs"),
    "another output": (described(renamed), "names `image, other`, its program otherwise"),
    "classifier": (described(called_classifier), "on whether it is a classifier"),
    "state": (described(lambda description: description.state.add().SetInParent()), "has a field `13`"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_is_refused(package: Path, name: str) -> None:
    change, reason = HOSTILE[name]
    change_model(package, change)
    message = damage(package)
    assert re.search(reason, message), message


def same_labels(model: Any) -> None:
    classes = operation_of(model, "classify").inputs["classes"].arguments[0].value.immediateValue.list
    classes.values[1].CopyFrom(classes.values[0])


def mixed_labels(model: Any) -> None:
    classes = operation_of(model, "classify").inputs["classes"].arguments[0].value.immediateValue.list
    classes.values[1].type.tensorType.dataType = 24
    classes.values[1].immediateValue.tensor.longInts.values.append(1)


def integer_label(model: Any) -> None:
    classes = operation_of(model, "classify").inputs["classes"].arguments[0].value.immediateValue.list
    classes.values[1].immediateValue.tensor.longInts.values.append(1)


def no_labels(model: Any) -> None:
    del operation_of(model, "classify").inputs["classes"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (same_labels, "a list of classes that all differ"),
        (no_labels, "a list of classes that all differ"),
        (mixed_labels, "a list of other things"),
        (integer_label, "are of another type"),
        (described(lambda description: description.ClearField("predictedProbabilitiesName")), "whether it is a classifier"),
    ],
)
def test_a_classifier_without_classes_is_refused(
    with_labels: Path, tmp_path: Path, change: Callable[[Any], None], reason: str
) -> None:
    path = copied(with_labels, tmp_path)
    assert read(path)[0].labels == ("a", "b", "c")
    change_model(path, change)
    assert reason in damage(path)


def ranges(*bounds: tuple[int, int]) -> Callable[[Any], None]:
    def change(description: Any) -> None:
        array = description.input[0].type.multiArrayType
        del array.shapeRange.sizeRanges[:]
        for low, high in bounds:
            array.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)

    return change


def planes(description: Any) -> None:
    description.input[0].type.multiArrayType.shape[:] = [1, 3, 8, 8]


def whole_numbers(description: Any) -> None:
    description.input[0].type.multiArrayType.dataType = 131104


def variadic(model: Any) -> None:
    model.mlProgram.functions["main"].inputs[0].type.tensorType.dimensions[0].unknown.variadic = True


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (described(planes), "floats of (N, H, W, 3) or (N, H, W, 1) are read"),
        (described(whole_numbers), "floats of (N, H, W, 3) or (N, H, W, 1) are read"),
        (described(ranges((1, 4), (8, 9), (8, 8), (3, 3))), "only the number of images may be open"),
        (described(ranges((0, 4), (8, 8), (8, 8), (3, 3))), "takes `0` to `4` images"),
        (described(ranges((1, -1), (8, 8), (8, 8), (3, 3))), "takes `1` to `-1` images"),
        (described(ranges((2**40, 2**41), (8, 8), (8, 8), (3, 3))), f"takes `{2**40}` to"),
        (described(ranges()), "only the number of images may be open"),
        (variadic, "a tensor of variable rank"),
    ],
)
def test_an_array_that_is_no_batch_of_images_is_refused(
    open_batch: Path, tmp_path: Path, change: Callable[[Any], None], reason: str
) -> None:
    path = copied(open_batch, tmp_path)
    pixels = read(path)[0].pixels
    assert (pixels.image, pixels.least, pixels.most) == (False, 1, 4)
    change_model(path, change)
    assert reason in damage(path)


def bound_value(change: Callable[[Any], None]) -> Callable[[Any], None]:
    """Changes the value that the first convolution's scale is stored as."""
    return lambda model: change(operation_of(model, "constexpr_affine_dequantize").attributes["zero_point"])


def set_open(stored: Any) -> None:
    stored.type.tensorType.rank = 1
    stored.type.tensorType.dimensions.add().unknown.variadic = False


def set_list(stored: Any) -> None:
    stored.type.listType.SetInParent()
    stored.immediateValue.list.SetInParent()


def set_list_of_vectors(stored: Any) -> None:
    vector = type(stored)()
    vector.type.tensorType.dataType, vector.type.tensorType.rank = 21, 1
    vector.type.tensorType.dimensions.add().constant.size = 1
    vector.immediateValue.tensor.bytes.values = b"a"
    stored.type.listType.SetInParent()
    stored.immediateValue.list.values.add().CopyFrom(vector)


def set_other_field(stored: Any) -> None:
    stored.immediateValue.tensor.ints.values.append(1)


def set_two_bytes(stored: Any) -> None:
    stored.immediateValue.tensor.bytes.values = b"ab"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_open, "a constant of no fixed size"),
        (set_list, "a list of other things"),
        (set_list_of_vectors, "a list of other things"),
        (set_other_field, "are of another type"),
        (set_two_bytes, "`1` numbers of `int8` in `2` bytes"),
    ],
)
def test_a_damaged_constant_is_refused(package: Path, change: Callable[[Any], None], reason: str) -> None:
    change_model(package, bound_value(change))
    assert reason in damage(package)
