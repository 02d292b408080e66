"""`.pth` and `.pt`: a state dict, or a training checkpoint that holds one. Code in the file is never run.

The pickle is first walked over with `pickletools`, which executes nothing, and then loaded with `weights_only=True`.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import require
from squeeze_export.errors import BadInput

STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "weights")
_STORAGES = re.compile(
    r"torch\.\w+|torch\.(_utils|_tensor|storage|serialization|nn\.parameter)\.\w+"
    r"|collections\.(OrderedDict|Counter|defaultdict)|(builtins|__builtin__)\.(set|complex|dict|list|int|float)"
)
MAX_PICKLE_PROTOCOL = 3
_INTEGERS = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG"})
_FAILURES = (
    pickle.UnpicklingError, zipfile.BadZipFile, struct.error, ArithmeticError, AssertionError, AttributeError, EOFError,
    ImportError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What `pickletools`, `zipfile` and `torch.load` were seen to raise on broken files."""
_SAVE_HINT = "save the state dict alone: torch.save(model.state_dict(), 'weights.pth')"


def read_torch(data: bytes, name: str) -> dict[str, NDArray[np.float32]]:
    """Reads a state dict.

    Args:
        data: the file's bytes, zip or the older stacked pickles.
        name: of the file, for messages.

    Returns:
        Key as stored -> float32 array.

    Raises:
        BadInput: the file is cut short, holds code, or holds no state dict; a tensor is not of floats, or claims more data than
            the file has.
        Unavailable: torch is not installed.
    """
    try:
        _scan(data, name)
    except _FAILURES as err:
        raise BadInput(f"`{name}` is no torch checkpoint, or is cut short: {_line(err)}") from err
    torch = require("torch", "torch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of its own storage classes and of pickle protocols
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        raise BadInput(f"`{name}` holds more than tensors, and nothing else is ever loaded", hint=_SAVE_HINT) from err
    except _FAILURES as err:
        raise BadInput(f"`{name}` cannot be read as a torch checkpoint: {_line(err)}") from err
    state = _state_dict(loaded, torch, name)
    stored_bytes = 0
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, torch.Tensor):
            raise BadInput(f"`{name}` has `{key}`, a {type(tensor).__name__}, among its tensors", hint=_SAVE_HINT)
        if not tensor.dtype.is_floating_point or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise BadInput(f"tensor `{key}` is `{tensor.dtype}`, {tensor.layout}, on `{tensor.device}`; plain floats are needed")
        # A view can repeat one stored number any number of times.
        stored_bytes += math.prod(tensor.shape) * tensor.element_size()
        if stored_bytes > len(data):
            raise BadInput(f"tensor `{key}` of shape `{tuple(tensor.shape)}` claims more data than `{name}` has")
    return {key: np.array(tensor.detach().to(torch.float32).numpy(), np.float32, order="C") for key, tensor in state.items()}


def _state_dict(loaded: Any, torch: Any, name: str) -> Mapping[Any, Any]:
    for _ in range(3):
        if not isinstance(loaded, Mapping):
            break
        if any(isinstance(value, torch.Tensor) for value in loaded.values()):
            return loaded
        inner = next((key for key in STATE_DICT_KEYS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        loaded = loaded[inner]
    raise BadInput(
        f"`{name}` holds no state dict, neither at its top nor under {', '.join(f'`{key}`' for key in STATE_DICT_KEYS)}",
        hint=_SAVE_HINT,
    )


def _scan(data: bytes, name: str) -> None:
    """Refuses what `torch.load` should never see: code, compressed or overlapping entries, storages larger than the file."""
    if data[:4] != b"PK\x03\x04":
        stream = io.BytesIO(data)
        for _ in range(3):  # magic number, protocol version, sizes of the C types
            for _operation in pickletools.genops(stream):
                pass
        _scan_pickle(stream, len(data), name)
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise BadInput(f"`{name}` has compressed entries, which torch never writes")
        if sum(entry.file_size for entry in entries) > len(data):
            raise BadInput(f"`{name}` claims to hold more bytes than it has")
        pickles = [entry for entry in entries if entry.filename.split("/")[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise BadInput(f"`{name}` is a zip file, but not one of torch's: `{len(pickles)}` data.pkl in it")
        _scan_pickle(io.BytesIO(archive.read(pickles[0])), len(data), name)


def _scan_pickle(stream: io.BytesIO, limit: int, name: str) -> None:
    texts = ("", "")
    last = protocol = 0
    for operation, argument, _at in pickletools.genops(stream):
        if operation.name in _INTEGERS:
            last = int(argument or 0)
        elif operation.name == "PROTO":
            protocol = int(argument or 0)
        elif isinstance(argument, str) and operation.name != "GLOBAL":
            texts = (texts[1], argument)
        elif operation.name in ("GLOBAL", "STACK_GLOBAL"):
            named = _line(str(argument).replace(" ", ".") if operation.name == "GLOBAL" else ".".join(texts))
            if not _STORAGES.fullmatch(named):
                raise BadInput(f"`{name}` holds code or an object (`{named}`), and that is never loaded", hint=_SAVE_HINT)
        elif operation.name == "BINPERSID" and last > limit:
            # The last number of a storage's description is its element count, at least a byte each.
            raise BadInput(f"`{name}` claims a storage of `{last}` elements in a file of {limit} bytes")
    if protocol > MAX_PICKLE_PROTOCOL:
        raise BadInput(
            f"`{name}` is written in pickle protocol `{protocol}`, which weights_only does not read",
            hint="save it with torch.save's own default, protocol 2",
        )


def _line(what: object) -> str:
    text = " ".join(str(what).split())
    return f"{text[:120]}..." if len(text) > 120 else text or type(what).__name__
