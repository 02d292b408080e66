"""Files of `torch.save`, read without torch: a zip file, or the older pickles one after the other. Code in them is never run.

The zip file (torch 1.6 and later) has the values in `data.pkl`, and each storage in an entry `data/<key>`, in the byte order that
the entry `byteorder` names. The older form has five pickles (magic number, protocol version, sizes of the C types, the values, the
keys of the storages) and then each storage: its count as int64, and its values. Everything in it is little-endian.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.errors import BadInput
from squeeze_export.nets.pickled import Global, Unbuilt, read_pickle
from squeeze_export.nets.stored import FLOAT_BYTES, StoredTensor, to_float32

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MAX_ENTRIES = 100_000
MAX_PICKLE_BYTES = 64 << 20
MAX_RANK = 16
SAVE_HINT = "save the state dict alone: torch.save(model.state_dict(), 'weights.pth')"
_FAILURES = (
    pickle.UnpicklingError, zipfile.BadZipFile, struct.error, ArithmeticError, AttributeError, EOFError, LookupError, MemoryError,
    NotImplementedError, OSError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What `pickletools` and `zipfile` were seen to raise on broken files."""
_DTYPES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16",
    "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
    "ComplexDouble": "complex128", "ComplexFloat": "complex64", "QInt32": "qint32", "QInt8": "qint8", "QUInt8": "quint8",
}  # fmt: skip
_ITEM_BYTES = {
    **FLOAT_BYTES, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
    "complex128": 16, "complex64": 8, "qint32": 4, "qint8": 1, "quint8": 1,
}  # fmt: skip
_OTHER_TENSORS = {
    "torch._utils._rebuild_sparse_tensor": "sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse tensor",
    "torch._utils._rebuild_nested_tensor": "nested tensor",
    "torch._utils._rebuild_qtensor": "quantized tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "meta tensor, without values",
    "torch._utils._rebuild_device_tensor_from_numpy": "tensor of another device",
}


@dataclass(frozen=True)
class _Storage:
    """A storage as the pickle describes it; `dtype` is None where each tensor says its own (then `count` is in bytes)."""

    dtype: str | None
    key: str
    count: int


Raw = Callable[[str, int], memoryview]
"""Key and size in bytes of a storage -> its bytes; raises ValueError where the file has fewer."""


def read_torch(data: bytes, name: str) -> Any:
    """Reads what `torch.save` wrote, as far as it is containers, texts, numbers and tensors.

    Args:
        data: the file's bytes.
        name: of the file, for messages.

    Returns:
        The value that was saved, as `pickled.read_pickle` gives it; tensors and parameters are `StoredTensor`, and their values are
        only read on demand.

    Raises:
        BadInput: the file is cut short, hostile, or something else than torch.save's: TorchScript, an exported program.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pickletools decodes texts, and Python warns of escapes in them
            return _read_zip(data, name) if data[:4] == ZIP_MAGIC else _read_legacy(data, name)
    except _FAILURES as err:
        reason = "it refers to a value that it does not hold" if isinstance(err, KeyError) else _line(err)
        raise BadInput(f"`{name}` is no torch checkpoint, or is cut short: {reason}") from err


def _read_zip(data: bytes, name: str) -> Any:
    if data.count(b"PK\x01\x02") > MAX_ENTRIES:
        raise BadInput(f"`{name}` is a zip file of more than {MAX_ENTRIES} entries")
    archive = zipfile.ZipFile(io.BytesIO(data))
    entries = {entry.filename: entry for entry in archive.infolist()}
    _refuse_other_zips(entries, name)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
        raise BadInput(
            f"`{name}` is a zip file with compressed entries, and torch.save compresses none: another program packed it",
            hint=SAVE_HINT,
        )
    if sum(entry.file_size for entry in entries.values()) > len(data):
        raise BadInput(f"`{name}` claims to hold more bytes than it has")
    pickles = [path for path in entries if path.split("/")[-1] == "data.pkl"]
    if len(pickles) != 1:
        raise BadInput(f"`{name}` is a zip file, but not one of torch's: `{len(pickles)}` data.pkl in it")
    if entries[pickles[0]].file_size > MAX_PICKLE_BYTES:
        raise BadInput(f"`{name}` has a pickle of `{entries[pickles[0]].file_size}` bytes; at most {MAX_PICKLE_BYTES} are read")
    folder = pickles[0].removesuffix("data.pkl")
    order = ">" if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder").strip() == b"big" else "<"

    def raw(key: str, size_bytes: int) -> memoryview:
        entry = entries.get(f"{folder}data/{key}")
        if entry is None or entry.file_size < size_bytes:
            raise ValueError(f"the storage `{key}` is {'cut short' if entry else 'not in it'}")
        return memoryview(archive.read(entry))

    sizes = {path.removeprefix(f"{folder}data/"): entry.file_size for path, entry in entries.items()}
    tensors = _Tensors(name, raw, order, sizes)
    return read_pickle(io.BytesIO(archive.read(pickles[0])), tensors.call, tensors.storage)


def _refuse_other_zips(entries: Mapping[str, Any], name: str) -> None:
    """Says of a zip file that torch.save did not write what it is, and what to type."""
    parts = {part for path in entries for part in path.split("/")}
    if "code" in parts and "constants.pkl" in parts:
        raise BadInput(
            f"`{name}` is a TorchScript program (torch.jit.save): code, and not a state dict",
            hint="torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')",
        )
    if "archive_format" in parts or "serialized_exported_program.json" in parts:
        raise BadInput(
            f"`{name}` is an exported program (torch.export.save), and not a state dict",
            hint="torch.save(torch.export.load(FILE).state_dict, 'weights.pth'), or torch.onnx.export and then the .onnx file",
        )
    if "model.weights.h5" in parts:
        raise BadInput(f"`{name}` is a Keras model", hint="export it to ONNX with tf2onnx, and give the .onnx file")
    if "data.pkl" not in parts and any(part.endswith(".npy") for part in parts):
        raise BadInput(
            f"`{name}` is an archive of numpy arrays (.npz)",
            hint="save them with safetensors.numpy.save_file, under torchvision's keys",
        )
    inner = next((path for path in entries if path.endswith((".pth", ".pt", ".ckpt", ".onnx", ".safetensors", ".tar"))), None)
    if "data.pkl" not in parts and inner is not None:
        raise BadInput(f"`{name}` is a zip archive around `{_line(inner)}`", hint="unpack it, and give the file inside")


def _read_legacy(data: bytes, name: str) -> Any:
    stream = io.BytesIO(data)
    spans: dict[str, tuple[int, int]] = {}
    found: dict[str, _Storage] = {}

    def raw(key: str, size_bytes: int) -> memoryview:
        start, size = spans.get(key, (0, -1))
        if size < size_bytes:
            raise ValueError(f"the storage `{key}` is {'cut short' if key in spans else 'not in it'}")
        return memoryview(data)[start : start + size]

    tensors = _Tensors(name, raw, "<", None, found)
    if read_pickle(stream, tensors.call, tensors.storage) != LEGACY_MAGIC:
        raise BadInput(
            f"`{name}` is a plain pickle, which torch.save did not write; pickles are programs, and none is run", hint=SAVE_HINT
        )
    for _ in range(2):  # protocol version, sizes of the C types
        read_pickle(stream, tensors.call, tensors.storage)
    values = read_pickle(stream, tensors.call, tensors.storage)
    if isinstance(values, Unbuilt):  # and there is nothing else to say of this file
        return values
    at = 0
    for key in read_pickle(stream, tensors.call, tensors.storage):
        storage, at = found[key], stream.tell()
        count = int.from_bytes(stream.read(8), "little")
        size = count * _ITEM_BYTES[storage.dtype or "uint8"]
        if count != storage.count or at + 8 + size > len(data):
            raise ValueError(f"the storage `{key}` is cut short")
        spans[key] = (at + 8, size)
        stream.seek(size, io.SEEK_CUR)
    return values


class _Tensors:
    """Gives a pickle's calls and persistent ids the meaning that torch gives them; any other call builds nothing."""

    def __init__(
        self, name: str, raw: Raw, order: str, sizes: Mapping[str, int] | None, found: dict[str, _Storage] | None = None
    ) -> None:
        self._name, self._raw, self._order, self._sizes = name, raw, order, sizes
        self._found = {} if found is None else found

    def storage(self, described: Any) -> Any:
        """A storage: ("storage", type, key, device, count), in the older form with the view that it is of another one."""
        if not isinstance(described, tuple) or len(described) not in (5, 6) or described[0] != "storage":
            raise ValueError("a reference to something else than a storage")
        _, kind, key, _device, count, *view = described
        if not isinstance(kind, Global) or not isinstance(key, str) or type(count) is not int or count < 0:
            raise ValueError("a storage whose description is none")
        if view and view[0] is not None:
            raise ValueError("a storage that is a part of another one, as no torch since 0.2 writes")
        dtype = _DTYPES.get(kind.name.split(".")[-1].removesuffix("Storage"))
        untyped = kind.name.endswith(".UntypedStorage")
        if dtype is None and not untyped:
            return Unbuilt(kind.name)
        size = count * (1 if dtype is None else _ITEM_BYTES[dtype])
        if self._sizes is not None and size > self._sizes.get(key, 0):
            raise BadInput(f"`{self._name}` claims a storage of `{count}` elements, more than it has")
        storage = _Storage(dtype, key, count)
        if self._found.setdefault(key, storage) != storage:
            raise ValueError(f"two descriptions of the storage `{key}`")
        return storage

    def call(self, function: str, arguments: tuple[Any, ...]) -> Any:
        """What a call makes: tensors, parameters, sizes."""
        if function in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
            return self._tensor(*arguments[:4])
        if function == "torch._utils._rebuild_tensor_v3":
            return self._tensor(*arguments[:4], dtype=arguments[6])
        if function in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
            return arguments[0]
        if function == "torch._tensor._rebuild_from_type_v2":
            inner, _kind, values, _state = arguments
            return self.call(inner.name, values)
        if function in _OTHER_TENSORS:
            return StoredTensor((), _OTHER_TENSORS[function], _unread)
        if function == "torch.Size":
            return arguments[0] if arguments else ()
        return Unbuilt(_line(function))

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *, dtype: Any = None) -> StoredTensor:
        if isinstance(storage, Unbuilt):
            return StoredTensor((), f"tensor of {storage.name}", _unread)
        if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
            raise TypeError("a tensor without a storage, shape or strides")
        numbers = (offset, *shape, *strides)
        if (
            any(type(number) is not int or not 0 <= number < 2**62 for number in numbers)
            or not len(shape) == len(strides) <= MAX_RANK
        ):
            raise ValueError("a tensor of an impossible shape")
        kind, count = storage.dtype, storage.count
        if kind is None:
            kind = dtype.name.removeprefix("torch.") if isinstance(dtype, Global) else "unknown"
            if kind not in _ITEM_BYTES:
                return StoredTensor(shape, kind, _unread)
            count //= _ITEM_BYTES[kind]
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        # A view can repeat one stored number any number of times.
        if math.prod(shape) > count or (0 not in shape and last >= count):
            raise BadInput(f"a tensor of shape `{shape}` claims more data than its storage in `{self._name}` has")
        return StoredTensor(shape, kind, lambda: self._values(storage, offset, shape, strides, kind))

    def _values(
        self, storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: str
    ) -> NDArray[np.float32]:
        item_bytes = _ITEM_BYTES[dtype]
        if 0 in shape:
            return np.zeros(shape, np.float32)
        try:
            data = self._raw(storage.key, storage.count * (1 if storage.dtype is None else item_bytes))
            stored = np.frombuffer(data, f"{self._order}{'u' if dtype == 'bfloat16' else 'f'}{item_bytes}", len(data) // item_bytes)
        except _FAILURES as err:
            raise BadInput(f"`{self._name}` is damaged or cut short: {_line(err)}") from err
        steps = [stride * item_bytes if size > 1 else 0 for size, stride in zip(shape, strides, strict=True)]
        return to_float32(np.lib.stride_tricks.as_strided(stored[offset:], shape, steps, writeable=False), dtype)


def _unread() -> NDArray[np.float32]:
    raise TypeError("only tensors of a type in FLOAT_BYTES have values")


def _line(what: object) -> str:
    text = " ".join(str(what).split())
    return f"{text[:120]}..." if len(text) > 120 else text or type(what).__name__
