"""An `.mlpackage` folder on disk: manifest, model file and weight files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from squeeze_export.files import read_content, reading
from squeeze_export.formats.coreml.program import Program, read_program
from squeeze_export.formats.coreml.wire import Message

MAX_MODEL_BYTES = 64_000_000
"""Of the model file, which does not contain the weights."""
MAX_MANIFEST_BYTES = 1_000_000

_MANIFEST, _DATA = "Manifest.json", "Data"
_WEIGHTS = ".bin"
_DESCRIPTION, _ML_PROGRAM = 2, 502
_METADATA, _USER_DEFINED = 100, 100


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

    @property
    def metadata(self) -> Mapping[str, str]:
        """The model's user-defined metadata.

        Raises:
            ValueError: they are damaged.
        """
        return self.description.message(_METADATA, "Metadata").words(_USER_DEFINED)


def read_package(path: Path) -> ModelPackage:
    """Reads a package. Names are looked up among the folder's files, so none can lead out of the folder.

    Raises:
        BadInput: the folder cannot be read, is too large, or holds links.
        ValueError: it is damaged or no Core ML package with one ML program; the message is one line.
    """
    with reading(path):
        content = read_content(path)
    if isinstance(content, bytes):
        raise ValueError("it is a file, a package is a folder")
    with damage():
        return _package(content)


@contextmanager
def damage() -> Iterator[None]:
    """Turns the exceptions that damaged data cause into a ValueError of one line."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError) as err:
        raise ValueError(" ".join(str(err).split()) or type(err).__name__) from err


def _package(content: Mapping[str, bytes]) -> ModelPackage:
    model_path, items = _manifest(content)
    data = content[model_path]
    if len(data) > MAX_MODEL_BYTES:
        raise ValueError(f"`{model_path}` has `{len(data)}` bytes; `{MAX_MODEL_BYTES}` are possible")
    model = Message(memoryview(data), "Model")
    if _ML_PROGRAM not in model:
        raise ValueError("its model is no ML program")
    weights = _weights(content, model_path, items)
    program = read_program(model.message(_ML_PROGRAM, "Program", (1, 2, 4)), weights)
    return ModelPackage(program, model.message(_DESCRIPTION, "ModelDescription"), weights)


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
