"""A Core ML model on disk: an `.mlpackage` folder with manifest, model file and weight files, or a `.mlmodel` file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from squeeze_export.files import read_content, reading
from squeeze_export.formats.coreml.neural_network import ML_PROGRAM
from squeeze_export.formats.coreml.program import Program, read_program
from squeeze_export.formats.coreml.wire import Message, Unread

MAX_MODEL_BYTES = 64_000_000
"""Of the model file of an ML program, which does not contain the weights."""
MAX_MANIFEST_BYTES = 1_000_000

_MANIFEST, _DATA = "Manifest.json", "Data"
_WEIGHTS = ".bin"
_DESCRIPTION = 2
_METADATA, _USER_DEFINED = 100, 100


@dataclass(frozen=True, eq=False)
class StoredModel:
    """A model of any kind.

    Attributes:
        name: of its file.
        size_bytes: likewise.
        message: the `Model` message.
        weights: a weight file's name in the model -> its bytes.
    """

    name: str
    size_bytes: int
    message: Message
    weights: Mapping[str, bytes]

    @property
    def metadata(self) -> Mapping[str, str]:
        """The user-defined metadata.

        Raises:
            ValueError: they are damaged.
        """
        return self.message.message(_DESCRIPTION, "ModelDescription").message(_METADATA, "Metadata").words(_USER_DEFINED)


@dataclass(frozen=True, eq=False)
class ModelPackage:
    """A package with one ML program.

    Attributes:
        program: the computation.
        description: the `ModelDescription` message.
        weights: a weight file's name in the program -> its bytes.
    """

    program: Program
    description: Message
    weights: Mapping[str, bytes]


def read_model(path: Path) -> StoredModel:
    """Reads a package, or a `.mlmodel` file. Names are looked up among the folder's files, so none can lead out of the folder.

    Raises:
        BadInput: it cannot be read, is too large, or holds links.
        ValueError: it is damaged or no Core ML model; the message is one line.
    """
    with reading(path):
        content = read_content(path)
    with damage():
        if isinstance(content, bytes):
            return StoredModel(path.name, len(content), Message(memoryview(content), "Model"), {})
        return _stored(content)


def read_package(path: Path) -> ModelPackage:
    """Reads a package with one ML program.

    Raises:
        BadInput, ValueError: as for `read_model`; or it is another model.
    """
    if path.is_file():
        raise ValueError("it is a file, a package is a folder")
    return program_package(read_model(path))


def program_package(model: StoredModel) -> ModelPackage:
    """A model with its ML program read.

    Raises:
        Unread: the program is of a newer form.
        ValueError: it is no ML program, or is damaged; the message is one line.
    """
    with damage():
        if ML_PROGRAM not in model.message:
            raise ValueError("its model is no ML program")
        if model.size_bytes > MAX_MODEL_BYTES:
            raise ValueError(f"`{model.name}` has `{model.size_bytes}` bytes; `{MAX_MODEL_BYTES}` are possible")
        program = read_program(model.message.message(ML_PROGRAM, "Program", (1, 2, 4)), model.weights)
        return ModelPackage(program, model.message.message(_DESCRIPTION, "ModelDescription"), model.weights)


@contextmanager
def damage() -> Iterator[None]:
    """Turns the exceptions that damaged data cause into a ValueError of one line. `Unread` is one already."""
    try:
        yield
    except Unread:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError) as err:
        raise ValueError(" ".join(str(err).split()) or type(err).__name__) from err


def _stored(content: Mapping[str, bytes]) -> StoredModel:
    model_path, items = _manifest(content)
    data = content[model_path]
    return StoredModel(model_path, len(data), Message(memoryview(data), "Model"), _weights(content, model_path, items))


def _manifest(content: Mapping[str, bytes]) -> tuple[str, tuple[str, ...]]:
    """The model file and all items of the manifest, as paths inside the package."""
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


def _weights(content: Mapping[str, bytes], model_path: str, items: tuple[str, ...]) -> dict[str, bytes]:
    """The manifest's weight files, by the names that the program uses."""
    folder = PurePosixPath(model_path).parent
    files: dict[str, bytes] = {}
    for name, data in content.items():
        file = PurePosixPath(name)
        listed = any(name == item or name.startswith(f"{item}/") for item in items)
        if listed and file.suffix == _WEIGHTS and file.is_relative_to(folder):
            files[f"@model_path/{file.relative_to(folder)}"] = data
    return files
