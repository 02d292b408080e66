"""The runtimes on the board. This file is sent there, so it may use only Python 3.7, numpy and the runtimes.

Each class opens a file with the same settings as this package's own runtime of that name. It takes pixels (N, H, W, 3) uint8, gives
logits (N, classes) float32, and gives the runtime's own records of what runs in which precision, as plain JSON. Whatever it raises
means that the runtime refused the file. `files` is name -> content, `module` the package of the runtime, and `builtin` asks for its
kernels without delegates.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import tempfile
import warnings
from typing import Any

MAX_DYNAMIC_BATCH = 32
"""Images at once if the file takes any batch."""


def _in_pieces(run: Any, batch: Any, size: int) -> Any:
    """Runs a batch in pieces of `size`. The last piece is padded with zeros, and its answer cut."""
    import numpy

    found = []
    for start in range(0, len(batch), size):
        piece = batch[start : start + size]
        count = len(piece)
        if count < size:
            piece = numpy.concatenate([piece, numpy.zeros((size - count, *piece.shape[1:]), numpy.uint8)])
        found.append(run(piece)[:count])
    return found[0] if len(found) == 1 else numpy.concatenate(found)


class Tflite:
    """LiteRT's interpreter, under either package name."""

    def __init__(self, files: dict[str, bytes], module: str, builtin: bool, threads: int) -> None:
        import numpy

        package = importlib.import_module(f"{module}.interpreter")
        kinds = package.OpResolverType
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._interpreter: Any = package.Interpreter(
                model_content=next(iter(files.values())),
                num_threads=threads,
                experimental_op_resolver_type=(kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES if builtin else kinds.AUTO),
            )
        self._interpreter.allocate_tensors()
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0]["shape"]) != 4 or len(outputs[0]["shape"]) != 2:
            raise ValueError("the file is not a classifier: one tensor of images in, one row of numbers out")
        if inputs[0]["dtype"] == numpy.int8 and tuple(inputs[0]["quantization"]) != (1, -128):
            raise ValueError("its int8 input does not take pixels minus 128")
        self.threads, self._input, self._output = threads, inputs[0], outputs[0]
        self._batch = int(self._input["shape"][0])
        signature = self._input.get("shape_signature", ())
        self._dynamic = len(signature) > 0 and int(signature[0]) == -1
        self._float32, self._uint8, self._int8 = numpy.float32, numpy.uint8, numpy.int8

    def infer(self, batch: Any) -> Any:
        """Runs a batch."""
        return _in_pieces(self._run, batch, min(len(batch), MAX_DYNAMIC_BATCH) if self._dynamic else self._batch)

    def _run(self, images: Any) -> Any:
        if len(images) != self._batch:
            self._interpreter.resize_tensor_input(self._input["index"], list(images.shape))
            self._interpreter.allocate_tensors()
            self._batch = len(images)
        self._interpreter.set_tensor(self._input["index"], self._as_given(images))
        self._interpreter.invoke()
        result = self._interpreter.get_tensor(self._output["index"])
        if result.dtype.kind == "f":
            return result
        scale, zero_point = self._output["quantization"]
        return (result.astype(self._float32) - self._float32(zero_point)) * self._float32(scale)

    def _as_given(self, images: Any) -> Any:
        """Pixels in the dtype of the file's input; as int8, minus 128."""
        if self._input["dtype"] == self._int8:
            return (images ^ self._uint8(128)).view(self._int8)
        return images.astype(self._input["dtype"], copy=False)

    def records(self) -> dict[str, Any]:
        """The interpreter's node list and tensors."""
        import numpy

        def plain(values: Any) -> list[int]:
            return [int(value) for value in values]

        return {
            "nodes": [
                {"op_name": node["op_name"], "inputs": plain(node["inputs"]), "outputs": plain(node["outputs"])}
                for node in self._interpreter._get_ops_details()
            ],
            "tensors": [
                {
                    "index": int(tensor["index"]),
                    "name": tensor["name"],
                    "shape": plain(tensor["shape"]),
                    "dtype": numpy.dtype(tensor["dtype"]).name,
                }
                for tensor in self._interpreter.get_tensor_details()
            ],
            "inputs": [int(self._input["index"])],
        }


class Onnx:
    """ONNX Runtime on the CPU."""

    def __init__(self, files: dict[str, bytes], module: str, builtin: bool, threads: int) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import, which already writes a session's number
        self._model, self.threads = next(iter(files.values())), threads
        self._session = self._opened(self._options())
        source = self._session.get_inputs()[0]
        self._name, self._shape = source.name, source.shape
        self._dtype = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}[source.type]

    def _opened(self, options: Any) -> Any:
        import onnxruntime

        return onnxruntime.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])

    def _options(self) -> Any:
        import onnxruntime

        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def infer(self, batch: Any) -> Any:
        """Runs a batch."""
        return _in_pieces(self._run, batch, self._shape[0] if isinstance(self._shape[0], int) else len(batch))

    def _run(self, images: Any) -> Any:
        return self._session.run(None, {self._name: images.astype(self._dtype, copy=False)})[0]

    def records(self) -> dict[str, Any]:
        """The profiler's events of one inference, and of another without ONNX Runtime's optimizations."""
        return {"events": self._profiled(True), "events_as_in_the_file": self._profiled(False)}

    def _profiled(self, optimized: bool) -> list[Any]:
        import numpy
        import onnxruntime

        shape = [side if isinstance(side, int) else 1 for side in self._shape]
        # Without `dir`, Python takes another folder if this one cannot be written.
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = os.path.join(folder, "profile")
            options.add_session_config_entry("session.disable_prepacking", "1")  # prepacked weights are missing in the records
            if not optimized:
                options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            session = self._opened(options)
            session.run(None, {self._name: numpy.zeros(shape, self._dtype)})
            session.end_profiling()
            with open(os.path.join(folder, os.listdir(folder)[0]), encoding="utf-8") as file:
                text = file.read()
            if not text.rstrip().endswith("]"):  # ONNX Runtime reports no error
                raise OSError(errno.ENOSPC, "ONNX Runtime's profile is cut short")
            return [event for event in json.loads(text) if event.get("cat") == "Node"]


class Openvino:
    """OpenVINO on the CPU, floats in float32."""

    def __init__(self, files: dict[str, bytes], module: str, builtin: bool, threads: int) -> None:
        import sys

        hidden = "openvino_telemetry" not in sys.modules
        if hidden:  # importing it reports the import to its maker
            sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
        }
        core = openvino.Core()
        parts = {os.path.splitext(name)[1]: content for name, content in files.items()}
        self._compiled = core.compile_model(core.read_model(parts[".xml"], parts[".bin"]), "CPU", settings)
        precision = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if precision != "f32":
            raise ValueError(f"OpenVINO computes in `{precision}`, though `f32` was asked for")
        self.threads = int(self._compiled.get_property("INFERENCE_NUM_THREADS"))
        port = self._compiled.inputs[0]
        self._dtype = {"u8": "uint8", "f32": "float32"}[port.get_element_type().get_type_name()]
        batch = port.get_partial_shape()[0]
        self._batch = batch.get_length() if batch.is_static else None
        self._request = self._compiled.create_infer_request()

    def infer(self, batch: Any) -> Any:
        """Runs a batch."""
        return _in_pieces(self._run, batch, self._batch or min(len(batch), MAX_DYNAMIC_BATCH))

    def _run(self, images: Any) -> Any:
        self._request.infer({0: images.astype(self._dtype, copy=False)})
        return self._request.get_output_tensor().data.copy()

    def records(self) -> dict[str, Any]:
        """Every executed operator, with its primitive and precision."""
        constant, found = set(), []
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            told = {key: value.astype(str) for key, value in node.get_rt_info().items()}
            sources = [entry.get_source_output().get_node() for entry in node.inputs()]
            kind, name = told["layerType"], node.get_friendly_name()
            if kind == "Const" or (sources and all(source.get_friendly_name() in constant for source in sources)):
                constant.add(name)
            elif kind not in ("Input", "Output"):
                macs = 1 if kind == "Convolution" else 0
                for port in (node, sources[1]) if macs else ():
                    for side in list(port.get_output_partial_shape(0))[1:]:
                        macs *= side.get_length()
                found.append(
                    {
                        "name": told["originalLayersNames"].split(",")[-1] or name,
                        "operator": kind,
                        "kernel": told["primitiveType"],
                        "precision": told["runtimePrecision"],
                        "output_precisions": told["outputPrecisions"].split(","),
                        "macs": macs,
                    }
                )
        return {"executed": found}


ENGINES = {"tflite": Tflite, "onnx": Onnx, "openvino": Openvino}
"""Target -> the class that opens its files."""
