"""An `.mlpackage` folder on disk: manifest, model file and `weight.bin`, read into what a session needs to know."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from squeeze_export.errors import BadInput, Refused
from squeeze_export.files import read_content
from squeeze_export.formats.coreml.blobs import Blob, read_blobs
from squeeze_export.formats.coreml.program import Program, read_program
from squeeze_export.formats.coreml.values import MAX_ELEMENTS
from squeeze_export.formats.coreml.wire import Message

MAX_SPEC_BYTES = 64_000_000
MAX_MANIFEST_BYTES = 1_000_000

_MANIFEST, _DATA, _WEIGHTS = "Manifest.json", "Data", "weight.bin"
_IMAGE, _ARRAY = 4, 5
_RGB, _BGR = 20, 30
_FLOAT16, _FLOAT32 = 65552, 65568
_ML_PROGRAM = 502


@dataclass(frozen=True)
class Input:
    """What a package takes.

    Attributes:
        name: of the feature.
        image: whether it is an image (1, 3, H, W), or an array (N, H, W, 3).
        bgr: of an image: whether its channels come as blue, green, red.
        height: pixels.
        width: pixels.
        least: images at once.
        most: images at once.
    """

    name: str
    image: bool
    bgr: bool
    height: int
    width: int
    least: int
    most: int


@dataclass(frozen=True)
class Package:
    """A package's interface and its program.

    Attributes:
        input: what it takes.
        result: name of the output that counts: the array, or where there is none, a classifier's dictionary.
        labels: the classes, in order, where the result is a dictionary; else empty.
        program: what it computes.
    """

    input: Input
    result: str
    labels: tuple[str, ...]
    program: Program


def read_package(path: Path) -> Package:
    """Reads a package. Every file is looked up among those that lie in the folder, so no name in it can lead out of it.

    Raises:
        BadInput: the folder cannot be read, is too large, or holds links.
        Refused: it is no Core ML package of one ML program, or damaged.
    """
    try:
        content = read_content(path)
    except OSError as err:
        raise BadInput(f"`{path}` cannot be read: {err.strerror or err}") from err
    try:
        if isinstance(content, bytes):
            raise ValueError("it is a file, a package is a folder")
        return _package(content)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError) as err:
        reason = " ".join(str(err).split()) or type(err).__name__
        raise Refused(f"`{path}` is no Core ML package that can be read: {reason}", hint="export it again") from err


def _package(content: Mapping[str, bytes]) -> Package:
    model_path, items = _manifest(content)
    spec = content[model_path]
    if len(spec) > MAX_SPEC_BYTES:
        raise ValueError(f"`{model_path}` has `{len(spec)}` bytes; `{MAX_SPEC_BYTES}` are possible")
    model = Message(memoryview(spec), "Model")
    if _ML_PROGRAM not in model:
        raise ValueError("its model is no ML program")
    program = read_program(model.message(_ML_PROGRAM, "Program", (1, 2, 4)), _weights(content, model_path, items))
    description = model.message(2, "ModelDescription", (1, 10, 11, 12, 20, 21, 100))
    inputs = description.messages(1, "FeatureDescription", (1, 2, 3))
    if len(inputs) != 1 or 20 in description:
        raise ValueError(f"its model has `{len(inputs)}` inputs, where one is needed")
    taken = _input(inputs[0])
    outputs = tuple(entry.text(1) for entry in description.messages(10, "FeatureDescription", (1, 2, 3)))
    if taken.name != program.input or outputs != program.outputs:
        raise ValueError(f"its description names `{', '.join((taken.name, *outputs))}`, its program otherwise")
    _check_input(taken, program)
    result, labels = _result(program, description.text(12))
    return Package(taken, result, labels, program)


def _manifest(content: Mapping[str, bytes]) -> tuple[str, tuple[str, ...]]:
    """The model file, and all that the manifest lists, as paths inside the package."""
    if _MANIFEST not in content:
        raise ValueError(f"it has no `{_MANIFEST}`")
    if len(content[_MANIFEST]) > MAX_MANIFEST_BYTES:
        raise ValueError(f"its `{_MANIFEST}` has `{len(content[_MANIFEST])}` bytes")
    manifest: Any = json.loads(content[_MANIFEST])
    items: dict[str, str] = {}
    for key, entry in manifest["itemInfoEntries"].items():
        path = PurePosixPath(entry["path"])
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"its manifest names `{path}`, which leads out of it")
        items[key] = f"{_DATA}/{path}"
    model_path = items[manifest["rootModelIdentifier"]]
    if model_path not in content:
        raise ValueError(f"its manifest names `{model_path}` as the model, which is no file in it")
    return model_path, tuple(items.values())


def _weights(content: Mapping[str, bytes], model_path: str, items: tuple[str, ...]) -> dict[str, Mapping[int, Blob]]:
    """The weight files that the manifest lists, under the names that the model gives them."""
    folder = PurePosixPath(model_path).parent
    files: dict[str, Mapping[int, Blob]] = {}
    for name, data in content.items():
        file = PurePosixPath(name)
        listed = any(name == item or name.startswith(f"{item}/") for item in items)
        if listed and file.name == _WEIGHTS and file.is_relative_to(folder):
            files[f"@model_path/{file.relative_to(folder)}"] = read_blobs(data)
    return files


def _input(feature: Message) -> Input:
    name, kind = feature.text(1), feature.message(3, "FeatureType", (_IMAGE, _ARRAY))
    if kind.only(_IMAGE, _ARRAY) == _IMAGE:
        image = kind.message(_IMAGE, "ImageFeatureType", (1, 2, 3))
        if image.integer(3) not in (_RGB, _BGR):
            raise ValueError(f"its image `{name}` has the colour space `{image.integer(3)}`; RGB and BGR are read")
        return Input(name, True, image.integer(3) == _BGR, image.integer(2), image.integer(1), 1, 1)
    array = kind.message(_ARRAY, "ArrayFeatureType", (1, 2, 31))
    shape = array.integers(1)
    if len(shape) != 4 or shape[3] != 3 or array.integer(2) not in (_FLOAT16, _FLOAT32):
        raise ValueError(f"its array `{name}` is `{shape}`; floats of (N, H, W, 3) are read")
    if 31 not in array:
        return Input(name, False, False, shape[1], shape[2], shape[0], shape[0])
    ranges = array.message(31, "ShapeRange", (1,)).messages(1, "SizeRange", (1, 2))
    bounds = [(size.integer(1), size.integer(2)) for size in ranges]
    if bounds[1:] != [(size, size) for size in shape[1:]]:
        raise ValueError(f"its array `{name}` has open sizes `{bounds}`; only the number of images may be open")
    least, most = bounds[0]
    # An ML program has no array without a bound; the fewest images are what a session is tried with.
    if not 1 <= least < most or least * math.prod(shape[1:]) > MAX_ELEMENTS:
        raise ValueError(f"its array `{name}` takes `{least}` to `{most}` images")
    return Input(name, False, False, shape[1], shape[2], least, most)


def _check_input(taken: Input, program: Program) -> None:
    sizes = (taken.height, taken.width)
    batch = taken.least if taken.least == taken.most else None
    expected = (1, 3, *sizes) if taken.image else (batch, *sizes, 3)
    declared = program.input_type
    if declared.shape != expected or declared.element.name not in ("float32", "float16"):
        raise ValueError(f"its input `{taken.name}` is `{list(expected)}`, its program takes `{declared}`")


def _result(program: Program, probabilities: str) -> tuple[str, tuple[str, ...]]:
    """The output that counts, and its labels where it is a dictionary.

    Args:
        program: of the package.
        probabilities: the output that the description calls a classifier's dictionary; empty where there is none.
    """
    ends = [operation for operation in program.operations if operation.operator == "classify"]
    told = [output.name for operation in ends for output in operation.outputs]
    if len(ends) > 1 or bool(ends) != bool(probabilities) or (ends and probabilities not in told):
        raise ValueError("its description and its program do not agree on whether it is a classifier")
    arrays = [name for name in program.outputs if name not in told]
    if len(arrays) == 1:
        return arrays[0], ()
    if arrays or not ends:
        raise ValueError(f"it gives `{', '.join(arrays)}`, where one array is needed")
    bound = ends[0].arguments.get("classes", ("",))[0]
    labels = () if isinstance(bound, str) else tuple(str(label) for label in bound.array.ravel())
    if not labels or len(set(labels)) != len(labels):
        raise ValueError("it is a classifier without a list of classes that all differ")
    return probabilities, labels
