"""The worker's side of `worker`: answers calls in its own process. It imports nothing of this project, so that any Python runs it.

Its arguments: the folder for arrays; the code to call, as a module's name or a file; `offline` to forbid the network. Each called
function is (values, arrays) -> (values, arrays). The code may keep state between two calls.
"""

import errno
import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

MAX_MESSAGE_CHARACTERS = 10_000
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request")


def no_network(event: str, arguments: tuple) -> None:  # type: ignore[type-arg]
    """An audit hook that stops toolchains from calling home or looking for updates."""
    if event in _NETWORK:
        raise ConnectionError("toolchains have no network")


def called(code: str) -> Any:
    """Imports the module that holds the functions."""
    if not code.endswith(".py"):
        return importlib.import_module(code)
    spec = importlib.util.spec_from_file_location("worker", code)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answer(module: Any, folder: Path, request: Any) -> Any:
    """Does one call. numpy is imported only for arrays, because an environment may have no numpy."""
    arrays: dict[str, Any] = {}
    for name in request["arrays"]:
        import numpy as np

        # Memory-mapped, because there may be many images. The function's writes do not change the file.
        arrays[name] = np.asarray(np.load(folder / f"in-{name}.npy", mmap_mode="c", allow_pickle=False))
    values, results = getattr(module, request["verb"])(request["values"], arrays)
    for name, array in results.items():
        import numpy as np

        with (folder / f"out-{name}.npy").open("wb") as file:
            writer: Any = SimpleNamespace(write=file.write)  # numpy writes a real file itself, and its errors have no errno
            np.lib.format.write_array(writer, np.asarray(array), allow_pickle=False)
    return {"values": values, "arrays": sorted(results)}


def failure(err: Exception) -> Any:
    """The answer that reports an error. One of this project's keeps its type; of any other, only its name and text remain."""
    kinds = [kind.__name__ for kind in type(err).__mro__ if kind.__module__ == "squeeze_export.errors"]
    if kinds:
        return {"kind": kinds[0], "message": err.message, "hint": err.hint}  # type: ignore[attr-defined]
    if isinstance(err, OSError) and err.errno == errno.ENOSPC:
        return {"full": True}
    return {"error": f"{type(err).__name__}: {err}"[:MAX_MESSAGE_CHARACTERS]}


def serve(folder: Path, code: str, *, offline: bool) -> None:
    """Answers until stdin ends. The pipes carry only requests and answers: everything that is printed goes to stderr."""
    requests, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    if offline:
        sys.addaudithook(no_network)
    module = called(code)
    for line in requests:
        os.ftruncate(2, 0)  # forget what the last call printed
        try:
            request = json.loads(line if line.startswith("{") else (folder / line.strip()).read_text(encoding="utf-8"))
            text = json.dumps(answer(module, folder, request))
        except Exception as err:  # noqa: BLE001
            text = json.dumps(failure(err))
        answers.write(f"{text}\n")
        answers.flush()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], offline=sys.argv[3:] == ["offline"])
