"""TFLite's model metadata: the meaning of input and output, and the labels, as MediaPipe and the task library read them.

The flatbuffer follows `metadata_schema.fbs` (file id M001). Few fields are needed, so they are written with the flatbuffers
builder, without MediaPipe or tflite-support. The labels are in a zip archive appended to the model; readers find it from the end of
the file.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from squeeze_export.core import require
from squeeze_export.errors import BadInput

METADATA_NAME = "TFLITE_METADATA"
LABELS_FILE = "labels.txt"
PARSER_VERSION = "1.0.0"
"""The oldest reader that knows every field written here."""

_FILE_ID = b"M001"
_RGB, _GRAYSCALE = 1, 2  # ColorSpaceType
_TENSOR_AXIS_LABELS = 2
_FEATURE, _IMAGE = 1, 2  # ContentProperties
_NORMALIZATION = 1  # ProcessUnitOptions
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)

_Field = tuple[int, str, Any]
"""Slot in the table (the field's position in the schema), kind (`offset`, `int8`, `uint8`, `uint32`), value."""


def model_metadata(
    *, name: str, description: str, size_px: tuple[int, int], grey: bool, output: str, labels: Sequence[str]
) -> bytes:
    """The content of the TFLITE_METADATA buffer.

    Args:
        name: of the network.
        description: one line.
        size_px: (width, height) of the input image.
        grey: whether the image has one channel.
        output: name of the output tensor.
        labels: one per class, or empty for no labels file.

    Raises:
        BadInput: a label has several lines, which would shift the labels that follow.
        Unavailable: `flatbuffers` is not installed.
    """
    for label in labels:
        if len(label.splitlines()) > 1:
            raise BadInput(f"the label `{label!r}` has more than one line", hint="give one label a line, with --labels")
    builder = require("flatbuffers", "tflite").Builder(1024)
    subgraph = _table(
        builder,
        10,
        (2, "offset", _vector(builder, [_input(builder, size_px, grey)])),
        (3, "offset", _vector(builder, [_output(builder, output, bool(labels))])),
    )
    model = _table(
        builder,
        8,
        (0, "offset", builder.CreateString(name)),
        (1, "offset", builder.CreateString(description)),
        (3, "offset", _vector(builder, [subgraph])),
        (7, "offset", builder.CreateString(PARSER_VERSION)),
    )
    builder.Finish(model, _FILE_ID)
    return bytes(builder.Output())


def with_files(model: bytes, files: Mapping[str, bytes]) -> bytes:
    """The model with files appended as a zip archive, uncompressed so that readers can map them. The bytes are reproducible."""
    if not files:
        return model
    stream = io.BytesIO(model)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _ZIP_EPOCH)
            entry.create_system = 3  # Unix on every machine
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return stream.getvalue()


def _input(builder: Any, size_px: tuple[int, int], grey: bool) -> int:
    size = _table(builder, 2, (0, "uint32", size_px[0]), (1, "uint32", size_px[1]))
    image = _table(builder, 2, (0, "int8", _GRAYSCALE if grey else _RGB), (1, "offset", size))
    # Mean 0 and standard deviation 1 mean raw pixels: the network normalizes them.
    options = _table(builder, 2, (0, "offset", _floats(builder, 0.0)), (1, "offset", _floats(builder, 1.0)))
    unit = _table(builder, 2, (0, "uint8", _NORMALIZATION), (1, "offset", options))
    stats = _table(builder, 2, (0, "offset", _floats(builder, 255.0)), (1, "offset", _floats(builder, 0.0)))  # max, min
    colours = "Grey" if grey else "RGB"
    return _table(
        builder,
        7,
        (0, "offset", builder.CreateString("image")),
        (1, "offset", builder.CreateString(f"{colours} pixels, 0 to 255; mean and standard deviation are applied inside.")),
        (3, "offset", _content(builder, _IMAGE, image)),
        (4, "offset", _vector(builder, [unit])),
        (5, "offset", stats),
    )


def _output(builder: Any, name: str, labelled: bool) -> int:
    fields: list[_Field] = [
        (0, "offset", builder.CreateString(name)),
        (1, "offset", builder.CreateString(f"One of the {name} per class.")),
        (3, "offset", _content(builder, _FEATURE, _table(builder, 0))),
    ]
    if labelled:
        file = _table(
            builder,
            5,
            (0, "offset", builder.CreateString(LABELS_FILE)),
            (1, "offset", builder.CreateString("One label a line, in index order.")),
            (2, "int8", _TENSOR_AXIS_LABELS),
        )
        fields.append((6, "offset", _vector(builder, [file])))
    return _table(builder, 7, *fields)


def _content(builder: Any, kind: int, properties: int) -> int:
    return _table(builder, 3, (0, "uint8", kind), (1, "offset", properties))


def _table(builder: Any, slots: int, *fields: _Field) -> int:
    """A table with `slots` fields, some of them set. What offsets refer to must be written before."""
    builder.StartObject(slots)
    for slot, kind, value in fields:
        if kind == "offset":
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        else:
            getattr(builder, f"Prepend{kind.capitalize()}Slot")(slot, value, 0)
    return int(builder.EndObject())


def _vector(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _floats(builder: Any, *values: float) -> int:
    return int(builder.CreateNumpyVector(np.array(values, np.float32)))
