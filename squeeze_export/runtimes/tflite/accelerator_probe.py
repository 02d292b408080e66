"""Asks the drivers and LiteRT for an accelerator; runs in a process of its own, since a broken driver may end it."""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Mapping
from typing import Any

from squeeze_export.errors import Unavailable
from squeeze_export.runtimes.tflite.compiled_model import compile_alone

VULKAN = "libvulkan.so.1"
KINDS = ("other", "integrated", "discrete", "virtual", "software")
"""The kinds of devices, indexed by `VkPhysicalDeviceType`; the last one computes on the CPU."""
_API_1_1 = (1 << 22) | (1 << 12)


class _Application(ctypes.Structure):
    """`VkApplicationInfo`."""

    _fields_ = (
        ("type", ctypes.c_uint32), ("next", ctypes.c_void_p), ("name", ctypes.c_char_p), ("version", ctypes.c_uint32),
        ("engine", ctypes.c_char_p), ("engine_version", ctypes.c_uint32), ("api_version", ctypes.c_uint32),
    )  # fmt: skip


class _Creation(ctypes.Structure):
    """`VkInstanceCreateInfo`."""

    _fields_ = (
        ("type", ctypes.c_uint32), ("next", ctypes.c_void_p), ("flags", ctypes.c_uint32),
        ("application", ctypes.POINTER(_Application)), ("layer_count", ctypes.c_uint32), ("layers", ctypes.c_void_p),
        ("extension_count", ctypes.c_uint32), ("extensions", ctypes.c_void_p),
    )  # fmt: skip


def vulkan_devices() -> list[tuple[str, str]]:
    """Name and kind of every device that Vulkan drivers offer here.

    Raises:
        Unavailable: the loader is not installed, or no driver answers it.
    """
    try:
        vulkan = ctypes.CDLL(VULKAN)
    except OSError as err:
        raise Unavailable(f"there is no Vulkan loader: {err}") from err
    application = _Application(type=0, name=b"squeeze-export", api_version=_API_1_1)
    creation = _Creation(type=1, application=ctypes.pointer(application))
    instance = ctypes.c_void_p()
    code = vulkan.vkCreateInstance(ctypes.byref(creation), None, ctypes.byref(instance))
    if code:
        raise Unavailable(f"no Vulkan driver answers: vkCreateInstance gives {code}")
    count = ctypes.c_uint32()
    code = vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
    devices = (ctypes.c_void_p * count.value)()
    code = code or vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), devices)
    if code or not count.value:
        raise Unavailable(f"no Vulkan driver has a device: vkEnumeratePhysicalDevices gives {code}")
    found = []
    for device in devices[: count.value]:
        properties = ctypes.create_string_buffer(4096)  # VkPhysicalDeviceProperties has 824 bytes
        vulkan.vkGetPhysicalDeviceProperties(ctypes.c_void_p(device), properties)
        *_, kind = struct.unpack_from("<5I", properties.raw)
        name = properties.raw[20:276].split(b"\0")[0].decode("utf-8", "replace")
        found.append((name, KINDS[kind] if kind < len(KINDS) else KINDS[0]))
    vulkan.vkDestroyInstance(instance, None)
    return found


def smallest_file() -> bytes:
    """A TFLite file of one RELU over (1, 4, 4, 4) float32."""
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder

    def tensor(name: str) -> Any:
        made = schema.TensorT()
        made.name, made.type, made.buffer, made.shape = name, schema.TensorType.FLOAT32, 0, [1, 4, 4, 4]
        return made

    def mapped(name: str, index: int) -> Any:
        made = schema.TensorMapT()
        made.name, made.tensorIndex = name, index
        return made

    model, graph, code, operator = schema.ModelT(), schema.SubGraphT(), schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RELU
    code.version = 1
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0], [1]
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [tensor("in"), tensor("out")], [0], [1], [operator]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs, signature.outputs = [mapped("in", 0)], [mapped("out", 1)]
    model.version, model.operatorCodes, model.subgraphs, model.signatureDefs = 3, [code], [graph], [signature]
    model.buffers = [schema.BufferT()]
    builder = Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def ask_driver(values: Mapping[str, Any], arrays: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Looks for Vulkan's devices, and lets LiteRT open a file on its accelerator.

    Args:
        values: `device`: `gpu` or `npu`.
        arrays: none.

    Returns:
        `accelerator`: its name; `drivers`: name and kind of each Vulkan device.
    """
    drivers = vulkan_devices() if values["device"] == "gpu" and sys.platform == "linux" else []
    opened = compile_alone(smallest_file(), values["device"], 1)
    opened.close()
    return {"accelerator": opened.accelerator, "drivers": drivers}, {}
