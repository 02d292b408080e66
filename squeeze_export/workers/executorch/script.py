"""ExecuTorch's side: lowers a network to a `.pte` for XNNPACK, reports what is inside a `.pte`, and runs it.

It runs in ExecuTorch's environment, under `serve.py`, and imports nothing of this project. The network is given as the operators of
an ONNX file in integers (see `compilers/executorch/network.py`). Each operator is repeated in torch with the same integers, so that
nothing is quantized again. uint8 integers are written as int8 minus 128, because XNNPACK's operators take only int8.
"""

# mypy: disable-error-code="import-not-found, import-untyped"
# The functions import packages of the other environment.

import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

PRODUCT = "network.pte"
SHIFT = 128
STATE: dict[str, Any] = {}
Values = dict[str, Any]
Arrays = dict[str, Any]
Answer = tuple[Values, Arrays]


def check(values: Values, arrays: Arrays) -> Answer:
    """Imports what the work needs."""
    import torch  # noqa: F401
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner  # noqa: F401
    from executorch.runtime import Runtime

    if not Runtime.get().backend_registry.is_available("XnnpackBackend"):
        raise RuntimeError("this executorch has no XNNPACK")
    return {"version": version("executorch")}, {}


def compile_network(values: Values, arrays: Arrays) -> Answer:
    """`values`: the network; `arrays`: its constants, `c0` and so on. Writes `PRODUCT`."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    network = torch_network(values, arrays).eval()
    pixels = torch.zeros(values["shape"], dtype=torch.uint8)
    with torch.no_grad():
        exported = torch.export.export(network, (pixels,), strict=False)
        program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    Path(PRODUCT).write_bytes(program.buffer)
    return {"operators": operators_of(program.buffer)}, {}


def torch_network(values: Values, arrays: Arrays) -> Any:
    """The operators as a torch module that takes (N, H, W, 3) uint8."""
    import torch
    from torch.ao.quantization.fx import _decomposed  # noqa: F401  # registers the operators

    functional: Any = torch.nn.functional
    quantized: Any = torch.ops.quantized_decomposed
    constants = {name: arrays[key] for name, key in values["constants"].items()}
    names: dict[str, str] = {}  # tensor -> the buffer that holds it

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, array in constants.items():
                if array.ndim:
                    self.hold(name, array)
            for node in values["nodes"]:
                held: list[Any] = [constants.get(name) for name in node["inputs"]]
                if node["operator"] == "DequantizeLinear" and held[0] is not None and held[0].dtype == np.int32:
                    # XNNPACK takes biases as floats and rounds them to steps of the same scale, which gives the same integers.
                    bias = (held[0].astype(np.float64) * held[1]).astype(np.float32)
                    self.hold(node["output"], bias)
                elif node["operator"] == "DequantizeLinear" and held[0] is not None:
                    self.hold(f"{node['output']} scale", np.broadcast_to(held[1], len(held[0])).copy())
                    self.hold(f"{node['output']} zero", np.zeros(len(held[0]), np.int64))

        def hold(self, name: str, array: Any) -> None:
            names[name] = f"held_{len(names)}"
            self.register_buffer(names[name], torch.from_numpy(np.array(array)))

        def forward(self, pixels: Any) -> Any:
            made: Values = {values["input"]: pixels}
            steps_of: Values = {}  # tensor in `made` that holds integers -> its quantization

            def real(name: str) -> Any:
                """Dequantizes for each reader: XNNPACK's partitions cannot share a dequantization across a bypass."""
                if name in steps_of:
                    return quantized.dequantize_per_tensor(made[name], *steps_of[name])
                return made[name] if name in made else getattr(self, names[name])

            def parameters(node: Values) -> tuple[Any, ...]:
                scale, zero = (constants[name] for name in node["inputs"][1:])
                return scale.item(), zero.item() - SHIFT, -SHIFT, SHIFT - 1, torch.int8

            for node in values["nodes"]:
                operator, inputs, output, attributes = node["operator"], node["inputs"], node["output"], node["attributes"]
                if output in names:
                    continue  # a bias
                if operator == "DequantizeLinear" and inputs[0] in constants:
                    scale, zero = (getattr(self, names[f"{output} {what}"]) for what in ("scale", "zero"))
                    weight = getattr(self, names[inputs[0]])
                    made[output] = quantized.dequantize_per_channel(weight, scale, zero, 0, -127, 127, torch.int8)
                elif operator == "DequantizeLinear":
                    source = made[inputs[0]]
                    if source.dtype == torch.uint8:  # the pixels
                        source = quantized.quantize_per_tensor(source.to(torch.float32), *parameters(node))
                    steps_of[output] = parameters(node)
                    made[output] = source
                elif operator == "QuantizeLinear":
                    made[output] = quantized.quantize_per_tensor(real(inputs[0]), *parameters(node))
                elif operator == "Conv":
                    pads = even_pads(node)
                    made[output] = functional.conv2d(*(real(name) for name in inputs), attributes["strides"], pads)
                elif operator == "Relu":
                    made[output] = functional.relu(real(inputs[0]))
                elif operator == "MaxPool":
                    ceil, source = rounds_up(node), real(inputs[0])
                    made[output] = functional.max_pool2d(source, attributes["kernel_shape"], attributes["strides"], ceil_mode=ceil)
                elif operator == "Concat":
                    made[output] = torch.cat([real(name) for name in inputs], attributes["axis"])
                elif operator == "Add":
                    made[output] = real(inputs[0]) + real(inputs[1])
                elif operator == "Transpose":
                    made[output] = real(inputs[0]).permute(attributes["perm"])
                elif operator == "GlobalAveragePool":
                    made[output] = real(inputs[0]).mean((2, 3), keepdim=True)
                elif operator == "Flatten":
                    made[output] = real(inputs[0]).flatten(1)
                else:
                    raise ValueError(f"an operator {operator}")
            return real(values["output"])

    return Network()


def even_pads(node: Values) -> tuple[int, int]:
    """ONNX's top, left, bottom, right as torch's (vertical, horizontal)."""
    top, left, bottom, right = node["attributes"]["pads"]
    if (top, left) != (bottom, right):
        raise ValueError(f"{node['name']} is padded unevenly")
    return top, left


def rounds_up(node: Values) -> bool:
    """Whether a pool is padded at the bottom or right, which equals rounding its size up; other padding is an error."""
    top, left, bottom, right = node["attributes"]["pads"]
    if (top, left) != (0, 0) or bottom >= node["attributes"]["strides"][0] or right >= node["attributes"]["strides"][1]:
        raise ValueError(f"{node['name']} is padded otherwise than by rounding up")
    return bool(bottom or right)


def operators_of(content: bytes) -> list[list[Any]]:
    """The operators of a `.pte` in execution order: `[name, where, whether in integers, multiply-accumulates]`."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    program = deserialize_pte_binary(content).program
    (plan,) = program.execution_plan
    found: list[list[Any]] = []
    for instruction in (one.instr_args for chain in plan.chains for one in chain.instructions):
        if hasattr(instruction, "delegate_index"):
            delegate = plan.delegates[instruction.delegate_index]
            if delegate.id != "XnnpackBackend":
                raise ValueError(f"a delegate {delegate.id}")
            found += xnnpack_operators(program.backend_delegate_data[delegate.processed.index].data)
        elif hasattr(instruction, "op_index"):
            found.append([plan.operators[instruction.op_index].name.split("::")[-1], "portable", False, 0])
    return found


def xnnpack_operators(content: bytes) -> list[list[Any]]:
    """The operators in XNNPACK's own graph; see `operators_of`."""
    from executorch.backends.xnnpack.serialization import xnnpack_graph_serialize as xnnpack
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    header = xnnpack.XNNHeader.from_bytes(bytes(content[: xnnpack.XNNHeader.EXPECTED_LENGTH]))
    graph = bytes(content[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size])
    with tempfile.TemporaryDirectory() as folder:
        schema, data = Path(folder) / "schema.fbs", Path(folder) / "graph.bin"
        schema.write_bytes(xnnpack._get_schema_bytes())
        data.write_bytes(graph)
        _flatc_decompile(folder, str(schema), str(data), ["--raw-binary"])
        decoded = json.loads((Path(folder) / "graph.json").read_text())
    tensors: dict[int, tuple[str, list[int]]] = {}
    for value in decoded["xvalues"]:
        union = value["xvalue_union"]
        tensor = union.get("tensor_value", union)
        tensors[tensor.get("id_out", 0)] = (tensor.get("datatype", ""), tensor.get("dims", []))
    return [xnnpack_operator(node, tensors) for node in decoded["xnodes"]]


def xnnpack_operator(node: Values, tensors: dict[int, tuple[str, list[int]]]) -> list[Any]:
    """One node. Multiply-accumulates: the size of the output times the weights per output channel."""
    union, kind = node["xnode_union"], node["xnode_union_type"].removeprefix("XNN")
    result, dims = tensors[union.get("output_id", 0)]
    sources = [tensors[union.get(name, 0)][0] for name in ("input_id", "input1_id") if name in union]
    integer = all("qint8" in kind_of for kind_of in [result, *sources])
    macs = 0
    if "filter_id" in union:
        filter_type, filter_dims = tensors[union["filter_id"]]
        integer = integer and "qcint8" in filter_type
        macs = int(np.prod(dims)) * int(np.prod(filter_dims[1:]))
    return [kind, "xnnpack", bool(integer), macs]


def open_program(values: Values, arrays: Arrays) -> Answer:
    """Opens `PRODUCT` in this folder with `threads`."""
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    portable_lib._unsafe_reset_threadpool(values["threads"])
    program = Runtime.get().load_program(Path(PRODUCT))
    STATE["program"], STATE["method"] = program, program.load_method("forward")
    threads = portable_lib._threadpool_get_thread_count()
    return {"threads": threads, "operators": operators_of(Path(PRODUCT).read_bytes())}, {}


def infer(values: Values, arrays: Arrays) -> Answer:
    """`pixels`: (N, H, W, 3) uint8, any number of images; each runs at the file's batch of 1."""
    return {}, {"logits": np.concatenate([execute(image[None]) for image in arrays["pixels"]])}


def execute(pixels: Any) -> Any:
    """(1, H, W, 3) uint8 -> (1, classes) float32."""
    import torch

    (result,) = STATE["method"].execute((torch.from_numpy(pixels),))
    return np.array(result)


def time_program(values: Values, arrays: Arrays) -> Answer:
    """Runs `pixels` `warmup` times, then times each of `rounds` runs in ns, from pixels in memory to logits in memory."""
    samples_ns = []
    for _ in range(values["warmup"]):
        execute(arrays["pixels"])
    for _ in range(values["rounds"]):
        start_ns = time.perf_counter_ns()
        execute(arrays["pixels"])
        samples_ns.append(time.perf_counter_ns() - start_ns)
    return {"samples_ns": samples_ns}, {}
