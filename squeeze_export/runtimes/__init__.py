"""What opens an artifact and runs it. One runtime is one module or object that satisfies `Runtime`, and one line in `RUNTIMES`."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from squeeze_export.core import Artifact, ByteArray, FloatArray, Session
from squeeze_export.errors import BadInput


class Runtime(Protocol):
    """What a runtime's module offers. Frameworks are imported inside the functions.

    Attributes:
        NAME: the registry's key.
    """

    NAME: str

    def open_session(self, artifact: Artifact, *, device: str, threads: int) -> Session:
        """Opens an artifact on a device: that one, never another.

        Args:
            artifact: one of a target that names this runtime.
            device: `cpu` ...
            threads: intra-op threads, at least 1.

        Raises:
            Unavailable: the device or the runtime's package is not on this machine.
            Refused: the runtime cannot open the file.
        """

    def devices(self) -> tuple[str, ...]:
        """The devices that this runtime can use on this machine."""

    def check_device(self, device: str) -> None:
        """Refuses a device that a session could not be opened on, before any work is done for it.

        Raises:
            Unavailable: it is not on this machine, or the runtime is not; with what to install.
        """

    def inner_values(self, artifact: Artifact, names: Sequence[str], pixels: ByteArray) -> Mapping[str, FloatArray]:
        """What the operators of an integer file make of one image, with the kernels that a session uses.

        Args:
            artifact: of an integer scheme.
            names: of nodes of the quantized graph that it was written from, not the logits'.
            pixels: (1, H, W, 3) uint8.

        Returns:
            name -> (1, H, W, C) float32 real values: scale * (integer - zero point).

        Raises:
            Unavailable: the runtime cannot show them.
            Refused: the file has no such tensors.
        """


RUNTIMES: Mapping[str, str] = {
    "onnxruntime": "squeeze_export.runtimes.onnxruntime",
    "litert": "squeeze_export.runtimes.tflite.litert",
    "litert-builtin": "squeeze_export.runtimes.tflite.interpreter:LITERT_BUILTIN",
    "tflite-runtime": "squeeze_export.runtimes.tflite.interpreter:TFLITE_RUNTIME",
    "tensorflow-lite": "squeeze_export.runtimes.tflite.interpreter:TENSORFLOW_LITE",
    "tflite-micro": "squeeze_export.runtimes.tflite.micro",
    "torch": "squeeze_export.runtimes.torch",
    "openvino": "squeeze_export.runtimes.openvino",
    "openvino-bf16": "squeeze_export.runtimes.openvino.bf16",
    "qnn": "squeeze_export.runtimes.qnn",
    "coreml": "squeeze_export.runtimes.coreml.native",
    "coreml-evaluator": "squeeze_export.runtimes.coreml.evaluator",
    "executorch": "squeeze_export.runtimes.executorch",
}
"""Name -> `module`, or `module:object` where one module holds several."""


def runtime_named(name: str) -> Runtime:
    """Looks a runtime up.

    Raises:
        BadInput: there is no such runtime.
    """
    if name not in RUNTIMES:
        raise BadInput(f"no runtime is called `{name}`", hint=f"one of: {', '.join(RUNTIMES)}")
    return cast(Runtime, pkgutil.resolve_name(RUNTIMES[name]))
