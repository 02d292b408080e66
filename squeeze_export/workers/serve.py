"""The other side of `process`: `python -I serve.py WORKER`, in a toolchain's own environment. Imports nothing of this project.

A worker is a file with a mapping `VERBS`: name -> function(values, arrays) -> (values, arrays). It may keep what it likes between
two calls. What it reads and writes beside that lies in the folder that it runs in.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

MAX_MESSAGE_CHARACTERS = 400
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request")


def no_network(event: str, arguments: tuple) -> None:  # type: ignore[type-arg]
    """An audit hook: toolchains call home, or look for updates, without being asked."""
    if event in _NETWORK:
        raise ConnectionError("toolchains have no network")


def read_arrays(names: list) -> dict:  # type: ignore[type-arg]
    """What was handed over. numpy is imported for arrays alone: an environment may have none."""
    if not names:
        return {}
    import numpy as np

    return {name: np.load(f"in-{name}.npy", allow_pickle=False) for name in names}


def write_arrays(results: dict) -> None:  # type: ignore[type-arg]
    """What is handed back."""
    for name, array in results.items():
        import numpy as np

        np.save(f"out-{name}.npy", array, allow_pickle=False)


def serve(script: str) -> None:
    """Answers until stdin ends. What anything prints goes to stderr: stdout says when an answer is written, and nothing else."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.addaudithook(no_network)
    spec = importlib.util.spec_from_file_location("worker", script)
    assert spec is not None
    assert spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    for _ in sys.stdin:
        os.ftruncate(2, 0)  # what one call prints is not kept for the next
        try:
            request = json.loads(Path("request.json").read_text(encoding="utf-8"))
            values, results = worker.VERBS[request["verb"]](request["values"], read_arrays(request["arrays"]))
            write_arrays(results)
            answer = {"values": values, "arrays": sorted(results)}
        except Exception as err:  # noqa: BLE001  # a toolchain may raise anything
            answer = {"error": f"{type(err).__name__}: {' '.join(str(err).split())}"[:MAX_MESSAGE_CHARACTERS]}
        Path("answer.json").write_text(json.dumps(answer), encoding="utf-8")
        channel.write("done\n")
        channel.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
