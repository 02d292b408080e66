"""`.safetensors`, read and written: torchvision's keys, and in the metadata what the tensors alone cannot tell.

Metadata, all optional, each a JSON text: `architecture` (`Architecture.to_json`), `preprocess` (the fields of
`core.Preprocess`), `labels` (a list with one name per class).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import ChannelOrder, Interpolation, Preprocess, ResizeMode
from squeeze_export.errors import BadInput
from squeeze_export.files import write_bytes
from squeeze_export.nets.architecture import Architecture, architecture_from_json
from squeeze_export.nets.recognition import check_architecture
from squeeze_export.nets.stored import StoredTensor, to_float32

MAX_LABEL_CHARACTERS = 1000
MAX_SIDE_PX = 4096
MAX_PIXEL_VALUE = 1e6
_REQUIRED = 6
"""So many fields of `Preprocess` every file has; the others may be missing."""
_DTYPES = {"F64": ("float64", "<f8"), "F32": ("float32", "<f4"), "F16": ("float16", "<f2"), "BF16": ("bfloat16", "<u2")}


@dataclass(frozen=True, eq=False)
class Stored:
    """What a safetensors file holds.

    Attributes:
        tensors: key as stored -> tensor, in the header's order.
        architecture: from the metadata, checked on its own but not yet against the tensors; None where absent.
        preprocess: likewise.
        labels: empty where absent.
    """

    tensors: Mapping[str, StoredTensor]
    architecture: Architecture | None
    preprocess: Preprocess | None
    labels: tuple[str, ...]


def read_safetensors(data: bytes, name: str) -> Stored:
    """Reads the tensors, of which those of F64, F32, F16 and BF16 have values, and the metadata.

    Args:
        data: the file's bytes.
        name: of the file, for messages.

    Raises:
        BadInput: the file is cut short or malformed, or the metadata is not what it should be.
    """
    import safetensors

    try:
        # The library checks offsets, sizes and overlaps before it hands anything out.
        entries = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
    except (safetensors.SafetensorError, ValueError) as err:
        raise BadInput(f"`{name}` is no safetensors file, or is cut short: {err}") from err
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = header.pop("__metadata__", None) or {}
    tensors = {key: _tensor(entries[key]) for key in header}
    stored = metadata.get("architecture")
    arch = None if stored is None else architecture_from_json(_json(stored, "architecture", dict))
    if arch is not None:
        check_architecture(arch)
    stored = metadata.get("preprocess")
    preprocess = None if stored is None else preprocess_from_json(_json(stored, "preprocess", dict))
    labels = _json(metadata.get("labels", "[]"), "labels", list)
    if any(not isinstance(label, str) or len(label) > MAX_LABEL_CHARACTERS for label in labels):
        raise BadInput(f"the labels stored in `{name}` are not all texts of at most {MAX_LABEL_CHARACTERS} characters")
    return Stored(tensors, arch, preprocess, tuple(labels))


def write_safetensors(
    path: Path,
    arch: Architecture,
    tensors: Mapping[str, NDArray[np.float32]],
    preprocess: Preprocess,
    labels: Sequence[str] = (),
) -> None:
    """Writes a checkpoint that reads back whole, bypass and preprocessing included. The file appears complete or not at all.

    Args:
        path: the file; its folder exists.
        arch: the description.
        tensors: torchvision's key -> float32 array.
        preprocess: what the network was trained with.
        labels: one per class, or empty.
    """
    from safetensors.numpy import save

    metadata = {"architecture": json.dumps(arch.to_json()), "preprocess": json.dumps(preprocess.to_json())}
    if labels:
        metadata["labels"] = json.dumps(list(labels), ensure_ascii=False)
    write_bytes(path, save({key: np.ascontiguousarray(value) for key, value in tensors.items()}, metadata))


def preprocess_from_json(values: Mapping[str, Any]) -> Preprocess:
    """Reads back what `Preprocess.to_json` gives.

    Raises:
        BadInput: a field is missing, superfluous or out of its range; it is named.
    """
    known = [field.name for field in fields(Preprocess)]
    for key in (*known[:_REQUIRED], *values):
        if key not in values or key not in known:
            raise BadInput(f"the stored preprocessing {'lacks' if key in known else 'has an unknown field,'} `{key}`")
    for key in ("resize_px", "crop_px", "width_px"):
        if key in values and (type(values[key]) is not int or not 1 <= values[key] <= MAX_SIDE_PX):
            raise BadInput(f"the stored preprocessing has {key} `{values[key]}`; 1 to {MAX_SIDE_PX} is possible")
    named = {"interpolation": Interpolation, "channel_order": ChannelOrder, "resize_mode": ResizeMode}
    for key, names in named.items():
        if key in values and values[key] not in get_args(names):
            raise BadInput(f"the stored preprocessing has {key} `{values[key]}`; {', '.join(get_args(names))} are possible")
    count = 1 if values["channel_order"] == "gray" else 3
    mean, std = (_numbers(values[key], key, count) for key in ("mean", "std"))
    if min(std) <= 0:
        raise BadInput(f"the stored preprocessing has std `{std}`; each must be above 0")
    return Preprocess(**{**values, "mean": mean, "std": std})


def _numbers(value: object, key: str, count: int) -> tuple[float, ...]:
    numbers = value if isinstance(value, list | tuple) else ()
    if len(numbers) != count or not all(type(v) in (int, float) and abs(v) <= MAX_PIXEL_VALUE for v in numbers):
        wanted = "one number" if count == 1 else "three numbers"
        raise BadInput(f"the stored preprocessing has {key} `{str(value)[:60]}`; {wanted} in pixel units expected")
    return tuple(map(float, numbers))


def _json(text: str, key: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise BadInput(f"the metadata `{key}` is not JSON: {err}") from err
    if not isinstance(value, kind):
        raise BadInput(f"the metadata `{key}` is a {type(value).__name__}, not a {kind.__name__}")
    return value


def _tensor(entry: Mapping[str, Any]) -> StoredTensor:
    shape = tuple(entry["shape"])
    dtype, stored = _DTYPES.get(entry["dtype"], (entry["dtype"], "u1"))
    return StoredTensor(shape, dtype, lambda: to_float32(np.frombuffer(entry["data"], stored).reshape(shape), dtype))
