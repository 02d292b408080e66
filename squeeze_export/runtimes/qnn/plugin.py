"""Qualcomm's execution provider: a plug-in of ONNX Runtime that the package `onnxruntime-qnn` brings, and the devices it drives."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from squeeze_export.core import require
from squeeze_export.errors import Unavailable
from squeeze_export.runtimes.onnxruntime.calls import hardware_of, onnxruntime, opened, refusals, session_options
from squeeze_export.runtimes.quiet import quiet, reason

PROVIDER = "QNNExecutionProvider"
EMULATOR = "htp-emulator"
CHIP = "htp"


def entries() -> dict[str, Any]:
    """Device -> ONNX Runtime's own entry for it. On x86-64 the library emulates the HTP on the CPU, and the entry says CPU.

    Raises:
        Unavailable: `onnxruntime-qnn` or `onnxruntime` is not installed, or its library does not load.
    """
    found: dict[str, Any] = {}
    for entry in plugin_entries():
        kind = hardware_of(entry)
        if kind == "NPU":
            found[CHIP] = entry
        elif kind == "CPU" and platform.machine().lower() in ("x86_64", "amd64"):
            found[EMULATOR] = entry
    return found


def open_on(device: str, model: bytes, path: Path, *, profile: Path | None = None, options: Mapping[str, str] | None = None) -> Any:
    """Opens a session on the HTP or its emulator, with nothing left to the CPU.

    It never chooses a SoC: that choice holds for the whole process, and sessions of two choices break each other. A compiled file
    names its own.

    Args:
        device: a key of `entries()`.
        model: an ONNX file, plain or with a context binary.
        path: where it lies, for messages.
        profile: where ONNX Runtime writes its own profile: how the file's name begins.
        options: of the provider.

    Raises:
        Refused: an operator cannot run there, or the file cannot be opened.
    """
    chosen = session_options(1)
    chosen.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if profile is not None:
        chosen.enable_profiling, chosen.profile_file_prefix = True, str(profile)
    backend = require("onnxruntime_qnn", "qnn").get_qnn_htp_path()
    chosen.add_provider_for_devices([entries()[device]], {"backend_path": backend, **(options or {})})
    with quiet(stdout=True):
        return opened(model, path, chosen, None)


def plugin_entries() -> list[Any]:
    """ONNX Runtime's entries for the devices of the plug-in, which is registered once a process."""
    runtime, package = onnxruntime(), require("onnxruntime_qnn", "qnn")
    if not hasattr(runtime, "get_ep_devices"):
        raise Unavailable("this ONNX Runtime takes no plug-ins", hint="pip install --upgrade onnxruntime")
    if not any(entry.ep_name == PROVIDER for entry in runtime.get_ep_devices()):
        try:
            with quiet(stdout=True):
                runtime.register_execution_provider_library(PROVIDER, package.get_library_path())
        except refusals() as err:
            raise Unavailable(
                f"ONNX Runtime cannot load Qualcomm's provider: {reason(err)}", hint="pip install --upgrade onnxruntime-qnn"
            ) from err
    return [entry for entry in runtime.get_ep_devices() if entry.ep_name == PROVIDER]
