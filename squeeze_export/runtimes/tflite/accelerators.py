"""Which of LiteRT's accelerators this machine has; the drivers are asked in a process of its own."""

from __future__ import annotations

import ctypes
import functools
import glob
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from squeeze_export.errors import SqueezeExportError, Unavailable
from squeeze_export.runtimes.tflite.accelerator_probe import VULKAN, ask_driver
from squeeze_export.workers.worker import Failed, call

DEVICES = ("gpu", "npu")
PROBE_S = 60
NPU_NODES = ("/dev/accel/accel*", "/dev/fastrpc-*", "/dev/adsprpc-*", "/dev/apusys*", "/dev/edgetpu*")
"""Linux's device files for NPUs: of the drivers of Intel and AMD, Qualcomm, MediaTek and Google."""
_HINTS: Mapping[str, str] = {
    "gpu": "apt-get install libvulkan1 and the GPU's Vulkan driver; `mesa-vulkan-drivers` has those of AMD and Intel",
    "npu": "pip install 'ai-edge-litert[npu-sdk]' on a machine with an NPU of Intel, Qualcomm or MediaTek, and its driver",
}
_RANKS: Mapping[str, int] = {"discrete": 0, "integrated": 1, "software": 2}
"""Which of several devices LiteRT's WebGPU takes: Dawn's order for high performance, `SortAdapters` in its Adapter.cpp."""
_ENVIRONMENT = ("VK_ICD_FILENAMES", "VK_DRIVER_FILES", "VK_ADD_DRIVER_FILES", "LD_LIBRARY_PATH", "PATH", "HOME")


@dataclass(frozen=True)
class Accelerator:
    """An accelerator that LiteRT opened a file on.

    Attributes:
        device: `gpu` or `npu`.
        name: under which LiteRT registered it, such as `GPU WebGPU`.
        driver: what the Vulkan driver calls its device; empty if no driver was asked.
        kind: `discrete`, `integrated`, `software` ...; empty likewise.
    """

    device: str
    name: str
    driver: str
    kind: str

    @property
    def software(self) -> bool:
        """Whether the driver computes on the CPU."""
        return self.kind == "software"


def present() -> tuple[str, ...]:
    """The accelerators that can be used here."""
    return tuple(device for device in DEVICES if isinstance(_asked(device, _settings()), Accelerator))


def accelerator_for(device: str) -> Accelerator:
    """An accelerator of this machine.

    Raises:
        Unavailable: there is none, or its driver does not answer; the hint says what to install.
    """
    found = _asked(device, _settings())
    if isinstance(found, str):
        raise Unavailable(f"LiteRT has no device `{device}` here: {found}", hint=_HINTS[device])
    return found


def _settings() -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in _ENVIRONMENT)


@functools.cache
def _asked(device: str, settings: tuple[str | None, ...]) -> Accelerator | str:
    """The accelerator, or why there is none. The answer is kept for as long as `settings`, of the environment, stay the same."""
    return why_none(device) or probe(device)


def why_none(device: str) -> str:
    """Why there is no such accelerator, if LiteRT and another process are not needed to tell; else empty."""
    if sys.platform not in ("linux", "darwin"):
        return f"its driver cannot be asked on `{sys.platform}`"
    if device == "npu":
        found = sys.platform == "linux" and any(glob.glob(pattern) for pattern in NPU_NODES)
        return "" if found else "no driver of an NPU has a device file"
    if sys.platform == "linux":
        try:
            ctypes.CDLL(VULKAN)
        except OSError:
            return f"there is no Vulkan loader, `{VULKAN}`"
    return ""


def probe(device: str) -> Accelerator | str:
    """The accelerator, or why there is none; asked in a process of its own, since a broken driver may end it."""
    try:
        answer, _ = call(ask_driver, {"device": device}, tool="its driver", limit_s=PROBE_S)
    except Failed as err:
        return f"the process that asked its driver did not survive it: {err.reason}"
    except SqueezeExportError as err:
        return err.message
    driver, kind = min(answer["drivers"], key=lambda found: _RANKS.get(found[1], len(_RANKS)), default=("", ""))
    return Accelerator(device, answer["accelerator"], driver, kind)
