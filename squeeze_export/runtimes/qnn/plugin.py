"""Qualcomm's execution provider: a plug-in of ONNX Runtime that the package `onnxruntime-qnn` brings, and what it drives here."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from squeeze_export.core import require
from squeeze_export.errors import Unavailable
from squeeze_export.runtimes.onnxruntime.calls import onnxruntime, opened, reason, refusals, session_options
from squeeze_export.runtimes.quiet import quiet

PROVIDER = "QNNExecutionProvider"
EMULATOR = "htp-emulator"
CHIP = "htp"
_STDOUT = 1


def entries() -> dict[str, Any]:
    """Device -> ONNX Runtime's own entry of it. On x86-64 the library emulates the HTP on the CPU, and the entry says CPU.

    Raises:
        Unavailable: `onnxruntime-qnn` or `onnxruntime` is not installed, or its library does not load.
    """
    found: dict[str, Any] = {}
    for entry in plugin_entries():
        kind = str(entry.device.type).rsplit(".", 1)[-1]
        if kind == "NPU":
            found[CHIP] = entry
        elif kind == "CPU" and platform.machine().lower() in ("x86_64", "amd64"):
            found[EMULATOR] = entry
    return found


def open_on(device: str, model: bytes, path: Path, options: Mapping[str, str], entries_of_session: Mapping[str, str]) -> Any:
    """Opens a session on the HTP or its emulator, with nothing left to the CPU.

    No SoC is ever chosen here: it is the library's choice for the whole process, and sessions of two choices break each other. A
    file that was compiled for one holds it.

    Args:
        device: a key of `entries()`.
        model: an ONNX file, its own or one of a context binary.
        path: where it lies, for messages.
        options: of the provider.
        entries_of_session: further entries of the session's configuration.

    Raises:
        Refused: an operator cannot run there, or the file cannot be opened.
    """
    chosen = session_options(1)
    chosen.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    for name, value in entries_of_session.items():
        if name == "profile":
            chosen.enable_profiling, chosen.profile_file_prefix = True, value
        else:
            chosen.add_session_config_entry(name, value)
    backend = require("onnxruntime_qnn", "qnn").get_qnn_htp_path()
    chosen.add_provider_for_devices([entries()[device]], {"backend_path": backend, **options})
    with stdout_aside(), quiet():
        return opened(model, path, chosen, None)


def plugin_entries() -> list[Any]:
    runtime, package = onnxruntime(), require("onnxruntime_qnn", "qnn")
    if not hasattr(runtime, "get_ep_devices"):
        raise Unavailable("this ONNX Runtime takes no plug-ins", hint="pip install --upgrade onnxruntime")
    found = _known(runtime)
    if not found:
        try:
            with stdout_aside(), quiet():
                runtime.register_execution_provider_library(PROVIDER, package.get_library_path())
        except refusals() as err:
            raise Unavailable(
                f"ONNX Runtime cannot load Qualcomm's provider: {reason(err)}", hint="pip install --upgrade onnxruntime-qnn"
            ) from err
        found = _known(runtime)
    return found


def _known(runtime: Any) -> list[Any]:
    return [entry for entry in runtime.get_ep_devices() if entry.ep_name == PROVIDER]


@contextmanager
def stdout_aside() -> Iterator[None]:
    """Keeps what the library prints of itself away from the results on stdout, while the block runs."""
    try:
        saved = os.dup(_STDOUT)
    except OSError:  # a process without stdout
        yield
        return
    if sys.stdout is not None:
        sys.stdout.flush()
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), _STDOUT)
        try:
            yield
        finally:
            ctypes.CDLL(None).fflush(None)  # what C keeps back would come out later
            os.dup2(saved, _STDOUT)
            os.close(saved)
