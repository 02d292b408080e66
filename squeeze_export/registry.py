"""Registries: a plain dict of name -> module, or object in a module; other distributions add to it by entry points.

An entry may leave out whatever its registry's protocol has a body or a value for: it gets this default.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from types import FunctionType, MethodType
from typing import Any

from squeeze_export.errors import BadInput, Refused, SqueezeExportError, did_you_mean

TARGETS: Mapping[str, str] = {
    "onnx": "squeeze_export.targets.onnx",
    "tflite": "squeeze_export.targets.tflite",
    "openvino": "squeeze_export.targets.openvino",
    "coreml": "squeeze_export.targets.coreml",
    "coreai": "squeeze_export.targets.coreai",
}
"""What writes files: modules that satisfy `targets.Target`. Each is a command of the same name."""

FORMATS: Mapping[str, str] = {
    "onnx": "squeeze_export.formats.onnx",
    "tflite": "squeeze_export.formats.tflite",
    "openvino": "squeeze_export.formats.openvino",
    "coreml": "squeeze_export.formats.coreml",
    "coreai": "squeeze_export.formats.coreai",
}
"""What reads files: modules that satisfy `formats.Format`."""

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
    "coreai": "squeeze_export.runtimes.coreai",
}
"""What runs files: modules or objects that satisfy `runtimes.Runtime`."""

COMPILERS: Mapping[str, str] = {
    "ethosu": "squeeze_export.compilers.ethosu",
    "qnn": "squeeze_export.compilers.qnn",
    "executorch": "squeeze_export.compilers.executorch",
}
"""What compiles a target's file for a chip: modules that satisfy `compilers.Compiler`. Each is a command of the same name."""

PEERS: Mapping[str, str] = {
    "onnx": "squeeze_export.peers.onnxruntime",
    "tflite": "squeeze_export.peers.tensorflow",
    "openvino": "squeeze_export.peers.nncf",
    "coreml": "squeeze_export.peers.coremltools",
}
"""Target -> its vendor's quantizer: modules that satisfy `peers.Peer`."""

RULEBOOKS: Mapping[str, str] = {
    "ethosu": "squeeze_export.lint.ethosu:RULEBOOK",
    "hexagon": "squeeze_export.lint.hexagon:RULEBOOK",
    "xnnpack": "squeeze_export.lint.xnnpack:RULEBOOK",
    "edgetpu": "squeeze_export.lint.edgetpu:RULEBOOK",
    "coreai-ane": "squeeze_export.lint.coreai_ane:RULEBOOK",
}
"""Chip -> its `lint.Rulebook`."""

TOOLCHAINS: Mapping[str, str] = {"executorch": "squeeze_export.workers.executorch"}
"""What needs an environment of its own: modules that satisfy `workers.environments.Toolchain`."""


def registered(own: Mapping[str, str], kind: str) -> Mapping[str, str]:
    """All entries of a registry: our own first, then those of the entry-point group `squeeze_export.<kind>s`.

    Args:
        own: name -> where it is: `package.module` or `package.module:object`. Entry points cannot replace these.
        kind: `runtime`, `target` ...
    """
    from importlib.metadata import entry_points  # takes 30 ms with what it reads

    added = {entry.name: entry.value for entry in entry_points(group=f"squeeze_export.{kind}s")}
    return {**own, **{name: added[name] for name in sorted(added) if name not in own}}


def entry_named(name: str, own: Mapping[str, str], kind: str, protocol: type) -> Any:
    """Looks up an entry of a registry, with its protocol's defaults filled in.

    Args:
        name: of the entry.
        own: name -> where it is. Entry points are read only if `name` is not among these.
        kind: `runtime`, `target` ...
        protocol: what every entry satisfies.

    Raises:
        BadInput: there is no such entry.
        Refused: another distribution's entry cannot be imported, or lacks something that has no default.
    """
    import pkgutil

    if name in own:
        return filled(pkgutil.resolve_name(own[name]), protocol)
    known = registered(own, kind)
    if name not in known:
        raise BadInput(f"no {kind} is called `{name}`", hint=did_you_mean(name, known))
    try:
        found = pkgutil.resolve_name(known[name])
    except Exception as err:  # a module of others may raise anything
        raise Refused(f"the {kind} `{name}` breaks when it is imported: {type(err).__name__}: {err}") from err
    return filled(found, protocol)


def usable(own: Mapping[str, str], kind: str, protocol: type) -> dict[str, Any]:
    """All entries of a registry by name, our own first; for the arguments see `entry_named`.

    A broken entry of another distribution is left out, so that it stops nothing else. `entry_named` says what is wrong with it.
    """
    found = {name: entry_named(name, own, kind, protocol) for name in own}
    for name in [name for name in registered(own, kind) if name not in own]:
        with suppress(SqueezeExportError):
            found[name] = entry_named(name, own, kind, protocol)
    return found


def filled(entry: object, protocol: type) -> Any:
    """Completes a module or object with the defaults of a protocol, whose functions get it as `self`.

    Raises:
        Refused: it lacks something that has no default: an annotated name without a value, or an `abstractmethod`.
    """
    names = (*protocol.__annotations__, *(name for name, value in vars(protocol).items() if isinstance(value, FunctionType)))
    absent = [name for name in names if not name.startswith("_") and not hasattr(entry, name)]
    missing = [name for name in absent if not _has_default(protocol, name)]
    if missing:
        named = getattr(entry, "__name__", repr(entry))
        raise Refused(f"`{named}` is no {protocol.__name__.lower()}: it lacks `{missing[0]}`")
    return _Filled(entry, protocol) if absent else entry


def _has_default(protocol: type, name: str) -> bool:
    return name in vars(protocol) and not getattr(vars(protocol)[name], "__isabstractmethod__", False)


class _Filled:
    def __init__(self, entry: object, protocol: type) -> None:
        self._entry, self._protocol = entry, protocol

    def __getattr__(self, name: str) -> Any:
        if hasattr(self._entry, name) or not _has_default(self._protocol, name):
            return getattr(self._entry, name)
        value = vars(self._protocol)[name]
        return MethodType(value, self) if isinstance(value, FunctionType) else value
