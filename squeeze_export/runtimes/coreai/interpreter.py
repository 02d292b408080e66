"""What runs in the child process: Apple's interpreter on one asset.

On Linux `AIModelAsset.executable` is the way in; the documented `AIModel.load` fails there.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import require
from squeeze_export.errors import Refused

EXTRA = "coreai"


@dataclass
class _Opened:
    """The child's one asset, which stays open until the next one is, or the process ends."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    function: Any = None
    name: str = ""
    given: str = ""


_opened = _Opened()


def open_asset(values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Opens the asset at `path`, and its `function`; `input` and `output` are the names of its only tensors."""
    ai = require("coreai.authoring", EXTRA)

    async def opened() -> Any:
        await _opened.stack.aclose()  # the asset before this one
        model = await _opened.stack.enter_async_context(ai.AIModelAsset.load(values["path"]).executable())
        return model.load_function(values["function"])

    _opened.function = _opened.loop.run_until_complete(opened())
    _opened.name, _opened.given = values["input"], values["output"]
    return {}, {}


def infer(values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs `pixels`, in the input's own dtype and shape; gives `logits`."""
    runtime = require("coreai.runtime", EXTRA)

    async def answered() -> Any:
        given = await _opened.function({_opened.name: runtime.NDArray(np.ascontiguousarray(arrays["pixels"]))})
        return np.array(given[_opened.given].numpy())

    return {}, {"logits": _opened.loop.run_until_complete(answered())}


def inner(values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs `pixels` through the asset at `path` with further outputs: what each layer of `names` makes. Gives them as `value_0` ...

    A layer's result is that of its last operator; their debug information names it.
    """
    ai, graphs = require("coreai.authoring", EXTRA), require("coreai.authoring.graph_builder", EXTRA)
    program = ai.AIModelAsset.load(values["path"]).program
    operations = program._module._mlir_module.body.operations
    graph = next(op for op in operations if isinstance(op, graphs.GraphOp) and op.sym_name.value == values["function"])
    made = {}
    for operation in graph.regions[0].blocks[0].operations:
        if len(operation.results) == 1 and operation.operation.name != "coreai.constant":
            made[ai.Operation._from_mlir(operation.operation).debug_info.filename] = operation.results[0]
    for name in values["names"]:
        if name not in made:
            raise Refused(f"the file has no layer `{name}`")
    with program._module._mlir_module.context, graph.location:
        graph.outputs_spec = [(f"value_{index}", made[name]) for index, name in enumerate(values["names"])]
    found: dict[str, Any] = {}

    async def answered(path: Path) -> None:
        async with ai.AIModelAsset.load(path).executable() as model:
            pixels = require("coreai.runtime", EXTRA).NDArray(np.ascontiguousarray(arrays["pixels"]))
            given = await model.load_function(values["function"])({values["input"]: pixels})
            found.update({name: np.array(given[name].numpy()) for name in (f"value_{n}" for n in range(len(values["names"])))})

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder).resolve() / "inner.aimodel"
        program.save_asset(path)
        asyncio.run(answered(path))
    return {}, found
