"""A package as an image classifier: its input, and the output with one number per class."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from squeeze_export.core import CHANNEL_COUNTS
from squeeze_export.formats.coreml.blobs import check_blobs
from squeeze_export.formats.coreml.package import ModelPackage, damage, read_package
from squeeze_export.formats.coreml.program import Program
from squeeze_export.formats.coreml.values import TensorType
from squeeze_export.formats.coreml.wire import Message

MAX_INPUT_ELEMENTS = 2**27
"""Of the smallest batch, with which a session is tried."""

_IMAGE, _ARRAY = 4, 5
_GRAY, _RGB, _BGR = 10, 20, 30
_FLOAT16, _FLOAT32 = 65552, 65568


@dataclass(frozen=True)
class Pixels:
    """A package's input.

    Attributes:
        name: of the feature.
        image: whether it is an image (1, C, H, W) or an array (N, H, W, C).
        bgr: whether an image's channels are in the order blue, green, red.
        height: in pixels.
        width: in pixels.
        channels: 3, or 1 of a grey image.
        least: the smallest batch.
        most: the largest batch.
        dtype: of the program's input: `float32` or `float16`.
    """

    name: str
    image: bool
    bgr: bool
    height: int
    width: int
    channels: int
    least: int
    most: int
    dtype: str = "float32"


@dataclass(frozen=True)
class Classifier:
    """A package's interface and its program.

    Attributes:
        pixels: the input.
        result: name of the output that is read: the array, or the dictionary of a classifier without an array.
        labels: the classes, in order, where the result is a dictionary; otherwise empty.
        program: the computation.
    """

    pixels: Pixels
    result: str
    labels: tuple[str, ...]
    program: Program


def read_classifier(path: Path) -> Classifier:
    """Reads a package and checks its weight files.

    Raises:
        BadInput: the folder cannot be read, is too large, or holds links.
        ValueError: the package is damaged or no image classifier; the message is one line.
    """
    package = read_package(path)
    with damage():
        for content in package.weights.values():
            check_blobs(content)
        return _classifier(package)


def _classifier(package: ModelPackage) -> Classifier:
    program, description = package.program, package.description
    description.check((1, 10, 11, 12, 20, 21, 100))
    inputs = description.messages(1, "FeatureDescription", (1, 2, 3))
    if len(inputs) != 1 or 20 in description:
        raise ValueError(f"its model has `{len(inputs)}` inputs, where one is needed")
    taken = inputs[0].text(1)
    given = description.messages(10, "FeatureDescription", (1, 2, 3))
    outputs = tuple(entry.text(1) for entry in given)
    if len(program.inputs) != 1 or program.inputs[0].type is None:
        raise ValueError(f"a program of `{len(program.inputs)}` inputs, where one tensor is needed")
    if taken != program.inputs[0].name or outputs != program.outputs:
        raise ValueError(f"its description names `{', '.join((taken, *outputs))}`, its program otherwise")
    pixels = _pixels(inputs[0], program.inputs[0].type)
    result, labels = _result(program, description.text(12))
    if not labels and _ARRAY not in given[outputs.index(result)].message(3, "FeatureType"):
        raise ValueError(f"its output `{result}` is no array")
    return Classifier(pixels, result, labels, program)


def _pixels(feature: Message, declared: TensorType) -> Pixels:
    name, kind = feature.text(1), feature.message(3, "FeatureType", (_IMAGE, _ARRAY))
    pixels = _image(name, kind) if kind.only(_IMAGE, _ARRAY) == _IMAGE else _array(name, kind)
    sizes, channels = (pixels.height, pixels.width), pixels.channels
    batch = pixels.least if pixels.least == pixels.most else None
    expected = (1, channels, *sizes) if pixels.image else (batch, *sizes, channels)
    if declared.shape != expected or declared.element.name not in ("float32", "float16"):
        raise ValueError(f"its input `{name}` is `{list(expected)}`, its program takes `{declared}`")
    return replace(pixels, dtype=declared.element.name)


def _image(name: str, kind: Message) -> Pixels:
    image = kind.message(_IMAGE, "ImageFeatureType", (1, 2, 3))
    colours = image.integer(3)
    if colours not in (_GRAY, _RGB, _BGR):
        raise ValueError(f"its image `{name}` has the colour space `{colours}`; grey, RGB and BGR are read")
    return Pixels(name, True, colours == _BGR, image.integer(2), image.integer(1), 1 if colours == _GRAY else 3, 1, 1)


def _array(name: str, kind: Message) -> Pixels:
    array = kind.message(_ARRAY, "ArrayFeatureType", (1, 2, 31))
    shape = array.integers(1)
    if len(shape) != 4 or shape[3] not in CHANNEL_COUNTS or array.integer(2) not in (_FLOAT16, _FLOAT32):
        raise ValueError(f"its array `{name}` is `{shape}`; floats of (N, H, W, 3) or (N, H, W, 1) are read")
    height, width, channels = shape[1:]
    if 31 not in array:
        return Pixels(name, False, False, height, width, channels, shape[0], shape[0])
    ranges = array.message(31, "ShapeRange", (1,)).messages(1, "SizeRange", (1, 2))
    bounds = [(size.integer(1), size.integer(2)) for size in ranges]
    if bounds[1:] != [(size, size) for size in shape[1:]]:
        raise ValueError(f"its array `{name}` has open sizes `{bounds}`; only the number of images may be open")
    least, most = bounds[0]
    # An ML program has no array without a bound.
    if not 1 <= least < most or least * math.prod(shape[1:]) > MAX_INPUT_ELEMENTS:
        raise ValueError(f"its array `{name}` takes `{least}` to `{most}` images")
    return Pixels(name, False, False, height, width, channels, least, most)


def _result(program: Program, probabilities: str) -> tuple[str, tuple[str, ...]]:
    """The output that is read, and its labels where it is a dictionary. `probabilities` is the name of a classifier's dictionary in
    the description, or empty.
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
