"""What runs in the child process: lists a program's operators, and copies its constants.

Core AI's compiler parses the program, the only parser that there is. It ends the process on damaged bytecode.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import require

EXTRA = "coreai"
MAX_OPERATORS = 50_000
MAX_CONSTANT_BYTES = 512 << 20

_TENSOR = re.compile(r"tensor<((?:(?:\d+|\?)x)*)(\w+)(?:, .*)?>")
_DTYPES: Mapping[str, str] = {
    **{f"si{bits}": f"int{bits}" for bits in (2, 4, 8, 16, 32, 64)},
    **{f"ui{bits}": f"uint{bits}" for bits in (2, 4, 8, 16, 32, 64)},
    **{f"f{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "bf16": "bfloat16",
    "i1": "bool",
}
_KNOWN = frozenset(
    {"bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)), "float16", "float32", "float64"}
)
_GRAPH, _CONSTANT, _OUTPUT = "coreai.graph", "coreai.constant", "coreai.output"


def list_program(values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Lists the program of the asset at `path`.

    Returns:
        `graphs`: of each its name, inputs, operators and outputs; and `stored`, the bytes of all constants one after the other.
        A value is a number; a tensor is a list of its dtype and its shape, -1 for a free side.
    """
    ai = require("coreai.authoring", EXTRA)
    program = ai.AIModelAsset.load(values["path"]).program
    copying = _Listing()
    graphs = []
    for graph in program._module._mlir_module.body.operations:
        if graph.operation.name == _GRAPH:
            graphs.append(copying.graph(graph))
        else:
            graphs.append({"name": graph.operation.name, "opaque": True})
    return {"graphs": graphs}, {"stored": np.frombuffer(b"".join(copying.stored), np.uint8)}


class _Listing:
    def __init__(self) -> None:
        self.compiler = require("coreai._compiler._mlir_libs._coreaiIR._bindings", EXTRA).compiler
        self.ir = require("coreai._compiler.ir", EXTRA)
        self.facade = require("coreai.authoring", EXTRA).Operation
        self.stored: list[bytes] = []
        self.size_bytes = self.count = 0
        self._numbers: dict[Any, int] = {}

    def graph(self, graph: Any) -> dict[str, Any]:
        """One graph with its operators. Names of inputs and outputs are attributes."""
        (block,) = graph.regions[0].blocks
        inputs = [[self._number(value), *_tensor(value.type)] for value in block.arguments]
        listed: dict[str, Any] = {"name": graph.sym_name.value, "inputs": inputs, "operators": [], "outputs": []}
        for operation in block.operations:
            self.count += 1
            if self.count > MAX_OPERATORS:
                raise ValueError(f"it has more than {MAX_OPERATORS} operators")
            if operation.operation.name == _OUTPUT:
                listed["outputs"] = [self._number(value) for value in operation.operands]
            else:
                listed["operators"].append(self._operator(operation))
        for key, attributes in (("input_names", graph.arg_attrs), ("output_names", graph.res_attrs)):
            listed[key] = [entry["coreai.name"].value if "coreai.name" in entry else "" for entry in attributes]
        return listed

    def _operator(self, operation: Any) -> dict[str, Any]:
        layer = ""
        with suppress(Exception):  # a location of another kind tells no name
            layer = self.facade._from_mlir(operation.operation).debug_info.filename or ""
        return {
            "kind": operation.operation.name,
            "layer": layer[:1000],
            "inputs": [self._number(value) for value in operation.operands],
            "outputs": [[self._number(value), *_tensor(value.type)] for value in operation.results],
            "stored": self._constant(operation) if operation.operation.name == _CONSTANT else None,
            "nested": len(operation.regions) > 0,
        }

    def _number(self, value: Any) -> int:
        return self._numbers.setdefault(value, len(self._numbers))

    def _constant(self, operation: Any) -> list[int] | None:
        """Where a constant's bytes lie in `stored`: start and length; None of a dtype that numpy does not have."""
        dtype, shape = _tensor(operation.results[0].type)
        if dtype not in _KNOWN:
            return None
        size_bytes = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        if self.size_bytes + size_bytes > MAX_CONSTANT_BYTES:
            raise ValueError(f"its constants have more than {MAX_CONSTANT_BYTES} bytes")
        value = operation.attributes["value"]
        if self.ir.DenseElementsAttr.isinstance(value):
            data = np.array(self.ir.DenseElementsAttr(value)).astype(dtype).tobytes()
        else:
            place = np.zeros(size_bytes, np.uint8)
            self.compiler.copy_constant_value_to_array(constant_op=operation, destination=place)
            data = place.tobytes()
        if len(data) != size_bytes:
            raise ValueError("a constant's values are not as many as its shape says")
        self.stored.append(data)
        self.size_bytes += size_bytes
        return [self.size_bytes - size_bytes, size_bytes]


def _tensor(kind: Any) -> tuple[str, list[int]]:
    """The dtype and shape of an MLIR type; of one that is no ranked tensor its own text."""
    found = _TENSOR.fullmatch(str(kind))
    if found is None:
        return str(kind)[:100], []
    sides = [-1 if side == "?" else int(side) for side in found[1].split("x")[:-1]]
    return _DTYPES.get(found[2], found[2]), sides
