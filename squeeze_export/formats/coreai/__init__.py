"""Core AI: an `.aimodel` folder with one program, parsed by Core AI's own compiler in a child process, after its hash was compared.

Core AI has no integer convolution. A file asks for one by `dequantize`, `conv2d`, `quantize`, with weights that
`blockwise_shift_scale` unpacks from integers: QDQ form, see `formats.qdq`. A convolution has no bias: `broadcasting_add` of a
constant row adds it, and in files of ours `broadcasting_mul` of another may rescale the sums. A layer's name is the file name
in the debug information of its operators. This reader shares nothing with `targets.coreai`.
"""

from __future__ import annotations

import atexit
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from squeeze_export.errors import BadInput
from squeeze_export.formats.audit import Policy
from squeeze_export.formats.contents import FREE, Contents, FileOperator, FileTensor
from squeeze_export.formats.coreai import parser
from squeeze_export.formats.coreai.asset import HASH, METADATA, PROGRAM, StoredAsset, read_asset
from squeeze_export.formats.qdq import Groups, Words
from squeeze_export.workers.worker import Failed, Late, Worker

NAME = "coreai"
SUFFIX = ".aimodel"
FUNCTION = "main"
LIMIT_S = 300.0

_PAIR = ("quantize", "dequantize")
_PRODUCTS = frozenset({"conv2d", "conv3d", "conv_transpose2d", "conv_transpose3d", "batch_matmul", "broadcasting_batch_matmul"})
_SCALED, _LOOKED_UP = "blockwise_shift_scale", "lut_to_dense"
_UNPACKING: Mapping[str, int] = {_SCALED: 0, _LOOKED_UP: 1}
"""The operators that unpack weights, and the place of the operand whose numbers become weights: a palette's are in its table."""
_PARAMETERS = ("int16", "uint16", "int32", "uint32", "int64", "uint64", "bool")
"""Dtypes of strides, paddings and axes, which are not weights."""
_SUM, _FACTOR = "broadcasting_add", "broadcasting_mul"
_MOVING = frozenset({"max_pool_2d", "concat", "transpose", "reshape", "shrink_dims", "expand_dims", "pad"})
_ROLES: Mapping[tuple[str, int], str] = {
    (_SCALED, 0): "weight",
    (_SCALED, 1): "weight_scale",
    ("conv2d", 1): "weight",
    (_SUM, 1): "bias",
    (_FACTOR, 1): "factor",
}
"""What a constant is called after the operator that reads it, and the place of the operand."""


class _Program(Groups):
    """A program's `audit.Arithmetic`."""

    def takes_parameter(self, place: int, index: int) -> bool:
        """See `audit.Arithmetic`. The last operand of a pair is the real value of the smallest integer, usually 0; `pad` fills with
        such a number.
        """
        kind = self.contents.operators[place].kind
        return super().takes_parameter(place, index) or (kind in _PAIR and index == 3) or (kind == "pad" and index == 1)


GROUPS = partial(
    _Program,
    words=Words(
        *_PAIR,
        frozenset({"relu"}),
        _PRODUCTS,
        frozenset({"relu", _SUM, _FACTOR, *_MOVING}),
        unpacking=_UNPACKING,
        unpacked=frozenset({"int8"}),
        steps=frozenset({_SUM, _FACTOR}),
    ),
)
"""A program's `audit.Arithmetic`."""


def _kept_name(contents: Contents, place: int) -> str:
    return contents.operators[place].name


def _packing(contents: Contents, place: int) -> str:
    """How the weights of a product are stored where they are packed: `int8`, `lookup table`."""
    operator = contents.operators[place]
    maker = contents.maker(operator.inputs[1]) if len(operator.inputs) > 1 else None
    if maker is None or maker.kind not in _UNPACKING or not maker.inputs:
        return ""
    return "lookup table" if maker.kind == _LOOKED_UP else maker.inputs[0].dtype


POLICY = Policy(
    arithmetic=GROUPS,
    products=_PRODUCTS,
    convolution="conv2d",
    passing=frozenset({"relu", "max_pool_2d", "concat", "pad", _SUM}),
    borders=frozenset(_PAIR),
    preparing=frozenset({*_PAIR, "cast", "transpose", "reshape", "pad", _SUM, _FACTOR}),
    kept_name=_kept_name,
    bias_sum=_SUM,
    packed=_packing,
)


def read(path: Path) -> Contents:
    """Everything in the function `main` of an asset; see `Format.read`.

    Raises:
        BadInput: it cannot be read, is too large, or is damaged.
        Unavailable: `coreai-core` is not installed.
    """
    try:
        asset = read_asset(path)
        graphs, stored = _listed(asset.program, asset.digest)
        return _contents(graphs, stored, asset)
    except (ValueError, LookupError, TypeError, RecursionError) as err:
        raise BadInput(f"`{path}` is no Core AI asset that can be read: {' '.join(str(err).split())}") from err


@lru_cache(maxsize=2)
def _listed(program: bytes, digest: bytes) -> tuple[Sequence[Any], bytes]:
    """The graphs and the bytes of the constants, as `parser` gives them. Kept, because an export reads its file several times.

    Raises:
        ValueError: Core AI's compiler cannot parse the program.
    """
    with _one_at_a_time:
        reader = _reader()
        asset = reader.folder / f"network{SUFFIX}"
        asset.mkdir(exist_ok=True)
        for name, data in ((PROGRAM, program), (HASH, digest), (METADATA, b'{"assetVersion": "2.0"}')):
            (asset / name).write_bytes(data)
        try:
            values, arrays = reader.ask(parser.list_program.__name__, {"path": str(asset)}, limit_s=LIMIT_S)
        except (Failed, Late) as err:  # it may have ended: the next file gets a new one
            reader.close()
            _reader.cache_clear()
            raise ValueError(_why(err)) from err
    return values["graphs"], arrays["stored"].tobytes()


def _why(err: Failed | Late) -> str:
    if isinstance(err, Late):
        return err.message
    return "its program is damaged: Core AI's parser breaks off" if err.reason.startswith("ended by") else err.reason


_one_at_a_time = Lock()


@cache
def _reader() -> Worker:
    """The process that parses programs. It is kept, because starting it takes longer than what it does."""
    worker = Worker(parser.__name__, tool="Core AI's compiler", keep_private=True)
    atexit.register(worker.close)
    return worker


def _contents(graphs: Sequence[Any], stored: bytes, asset: StoredAsset) -> Contents:
    opaque = tuple(f"it has a `{graph['name']}` beside its functions" for graph in graphs if "operators" not in graph)
    named = {graph["name"]: graph for graph in graphs if "operators" in graph}
    if FUNCTION not in named:
        raise ValueError(f"it has no function `{FUNCTION}`")
    others = tuple(f"it has another function, `{name}`" for name in named if name != FUNCTION)
    return replace(_Reading(named[FUNCTION], stored).contents, metadata=asset.metadata, opaque=(*opaque, *others))


@dataclass(frozen=True)
class _Use:
    """The first operand that a constant is: operator's kind and layer, and the place of the operand."""

    kind: str
    layer: str
    index: int


class _Reading:
    """Converts one graph to `Contents`. A constant is no operator, and parameters such as strides are no inputs."""

    def __init__(self, graph: Mapping[str, Any], stored: bytes) -> None:
        self._stored = memoryview(stored)
        self._uses: dict[int, _Use] = {}
        operators = graph["operators"]
        for operator in operators:
            for index, number in enumerate(operator["inputs"]):
                self._uses.setdefault(number, _Use(_kind(operator), operator["layer"], index))
        names = graph["input_names"]
        inputs = [
            FileTensor(name, dtype, tuple(shape), place=n) for name, (n, dtype, shape) in zip(names, graph["inputs"], strict=True)
        ]
        self._tensors = {int(tensor.key): tensor for tensor in inputs}  # type: ignore[call-overload]
        self._constants: list[FileTensor] = []
        made = [self._operator(operator) for operator in operators if not self._is_stored(operator)]
        outputs = zip(graph["output_names"], graph["outputs"], strict=True)
        self.contents = Contents(
            NAME,
            tuple(made),
            tuple(inputs),
            tuple(replace(self._tensors[number], name=name) for name, number in outputs),
            tuple(self._constants),
        )

    def _is_stored(self, operator: Mapping[str, Any]) -> bool:
        """Whether an operator is a constant, which is then added."""
        if _kind(operator) != "constant":
            return False
        ((number, dtype, shape),) = operator["outputs"]
        use = self._uses.get(number, _Use("constant", "", number))
        role = _ROLES.get((use.kind, use.index), f"{use.kind}.{use.index}")
        tensor = FileTensor(f"{use.layer}/{role}".lstrip("/"), dtype, tuple(shape), constant=True, place=number)
        if operator["stored"] is not None:
            start, length = operator["stored"]
            data = self._stored[start : start + length]
            zero_point = use.kind in (*_PAIR, _SCALED) and use.index > 1
            tensor = replace(tensor, size_bytes=0 if dtype in _PARAMETERS or zero_point else length, load=data.tobytes)
        self._tensors[number] = tensor
        self._constants.append(tensor)
        return True

    def _operator(self, operator: Mapping[str, Any]) -> FileOperator:
        kind, layer = _kind(operator), operator["layer"]
        outputs = tuple(FileTensor(layer or f"%{n}", dtype, tuple(shape), place=n) for n, dtype, shape in operator["outputs"])
        self._tensors.update((int(tensor.key), tensor) for tensor in outputs)  # type: ignore[call-overload]
        inputs = [self._tensors[number] for number in operator["inputs"]]
        _check_window(kind, inputs, outputs)
        taken = tuple(tensor for tensor in inputs if not (tensor.constant and tensor.dtype in _PARAMETERS))
        name = layer or (outputs[0].name if outputs else kind)
        return FileOperator(kind, name, taken, outputs, opaque="it has operators inside" if operator["nested"] else "")


def _check_window(kind: str, inputs: Sequence[FileTensor], outputs: Sequence[FileTensor]) -> None:
    """Compares the height and width of a result with what its window makes: Core AI believes whatever a file says of a pool.

    Raises:
        ValueError: they differ.
    """
    if kind not in ("conv2d", "max_pool_2d") or len(inputs) < _WINDOW_OPERANDS:
        return
    source, window, *moves = inputs[:_WINDOW_OPERANDS]
    if not all(tensor.constant and tensor.dtype == "uint32" and tensor.shape == (2,) for tensor in moves):
        return
    stored = kind == "max_pool_2d" and window.constant and window.dtype == "uint32" and window.shape == (2,)
    sides = np.frombuffer(window.load(), "<u4").tolist() if stored else window.shape[2:]
    strides, dilations = (np.frombuffer(tensor.load(), "<u4").tolist() for tensor in moves)
    given, made = source.shape[2:], outputs[0].shape[2:]
    if len(given) != len(made) or len(given) != len(sides) or min(strides, default=0) < 1:
        raise ValueError(f"{kind} `{outputs[0].name}` has no height and width, or no stride")
    for axis, size in enumerate(given):
        places = size - dilations[axis] * (sides[axis] - 1) - 1
        whole = places // strides[axis] + 1
        partly = whole + (kind == "max_pool_2d" and places % strides[axis] > 0)  # in ceil mode
        if size != FREE and made[axis] not in (whole, partly):
            raise ValueError(f"the result of {kind} `{outputs[0].name}` has a side of {made[axis]}, its window makes {whole}")


_WINDOW_OPERANDS = 4
"""Of a convolution or a pool: data, window, strides, dilations."""


def _kind(operator: Mapping[str, Any]) -> str:
    """`coreai.decomposable.broadcasting_add` is `broadcasting_add`; operators of other dialects keep their dialect."""
    kind: str = operator["kind"]
    return kind.removeprefix("coreai.").removeprefix("decomposable.")
