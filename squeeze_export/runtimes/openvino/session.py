"""What the two OpenVINO runtimes share; they differ in the precision of floats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_export.core import CHANNEL_COUNTS, Artifact, ByteArray, FloatArray, Placement
from squeeze_export.errors import BadInput, Refused
from squeeze_export.files import reading
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.runtimes.foreign import adapter_of
from squeeze_export.runtimes.openvino.plugins import AUTO, executed_on, float_precision, load, plugin_of, settings_of
from squeeze_export.runtimes.openvino.records import Executed, file_macs, kernel_families, placement, read_compiled
from squeeze_export.runtimes.quiet import one_line, quiet, reason
from squeeze_export.runtimes.session import MAX_FREE_BATCH, BatchSession, check_threads

MAX_FILE_BYTES = 1 << 30

_DTYPES: Mapping[str, str] = {"u8": "uint8", "f32": "float32"}


class OpenvinoSession(BatchSession):
    """An OpenVINO network compiled for a device. Not to be used by two threads at once.

    Attributes:
        device: the one that OpenVINO says it executes on; never `auto`.
        threads: on the CPU what OpenVINO says, at most the number of cores; elsewhere as asked.
        kernels: the primitives of the convolutions, such as `brgconv_avx512_I8`; `not told` if the device does not list them.
        executed: every operator with its primitive and precision; empty if the device does not list them.
        facts: unless `cpu` was asked for, `device_name`, and `precision`: that of floats.

    Raises:
        BadInput, Unavailable: see `Runtime.open_session`.
        Refused: OpenVINO cannot open the folder, takes another precision or device than the one asked for, or the network is not an
            image classifier.
    """

    def __init__(self, artifact: Artifact, *, runtime: str, precision: str, device: str, threads: int) -> None:
        check_threads(threads)
        self.runtime = runtime
        self._floats = scheme_named(artifact.scheme).floats
        plugin = plugin_of(runtime, precision, device)
        model = _read(artifact.path, alone=artifact.foreign is not None)
        if plugin.startswith("NPU"):
            _fix_batch(model)
        wanted, macs = float_precision(plugin, precision), file_macs(model)
        compiled = _compiled(model, artifact.path, plugin, wanted, threads)
        found = executed_on(compiled)
        if found.precision != wanted:
            raise Refused(f"OpenVINO computes in `{found.precision}`, though `{wanted}` was asked for")
        if device not in (found.device, AUTO):
            raise Refused(f"OpenVINO runs the network on `{found.device}`, though `{device}` was asked for")
        self.device, self.threads = found.device, threads if found.threads is None else found.threads
        if device != "cpu":
            self.facts = {"device_name": found.full_name, "precision": found.precision}
        self._adapter = adapter_of(artifact)
        if self._adapter is None:
            self._dtype, batch, sides = _interface(compiled, artifact.path)
        else:
            self._dtype, batch, sides = self._adapter.input.dtype, self._adapter.batch, self._adapter.sides
        super().__init__(sides, least=batch or 1, most=batch or MAX_FREE_BATCH)
        self.executed: tuple[Executed, ...] = read_compiled(compiled, macs)
        self.kernels = kernel_families(self.executed) if self.executed else "not told"
        self._request: Any = compiled.create_infer_request()
        self._tensor: Any = self._request.get_input_tensor() if batch else None

    @cached_property
    def placement(self) -> Placement | None:
        """Which operators run in integers, from `executed`; None if the device does not list them."""
        return placement(self.executed, self._floats) if self.executed else None

    def run_piece(self, images: ByteArray) -> FloatArray:
        """See `BatchSession.run_piece`."""
        taken = images if self._adapter is None else self._adapter.taken(images)
        if self._tensor is None or self._tensor.shape[0] != len(images):
            openvino = load()
            self._tensor = openvino.Tensor(openvino.Type(np.dtype(self._dtype)), openvino.Shape(taken.shape))
            self._request.set_input_tensor(self._tensor)
        # OpenVINO's own tensor is aligned, and was a little faster than a borrowed array.
        self._tensor.data[:] = taken
        try:
            self._request.infer()
        except RuntimeError as err:
            raise Refused(f"`{self.runtime}` failed on `{len(images)}` images: {one_line(err)}") from err
        logits: FloatArray = self._request.get_output_tensor().data
        return logits if self._adapter is None else self._adapter.given(logits)

    def free(self) -> None:
        """Frees the network."""
        self._request = self._tensor = None


def inner_values(artifact: Artifact, names: Sequence[str], pixels: ByteArray, *, precision: str) -> Mapping[str, FloatArray]:
    """The file's inner tensors for one image, made outputs of the model; see `Runtime.inner_values`."""
    model = _read(artifact.path)
    found = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    missing = [name for name in names if name not in found or len(found[name].get_output_partial_shape(0)) != 4]
    if missing:
        raise Refused(f"`{artifact.path}` has no tensor `{missing[0]}`")
    count = len(model.outputs)
    added = model.add_outputs([found[name].output(0) for name in names])
    compiled = _compiled(model, artifact.path, "CPU", precision, 1)
    dtype, size, sides = _interface(compiled, artifact.path, count + len(added))
    batch = np.zeros((size or 1, *sides), dtype)
    batch[:1] = pixels
    results = compiled(batch)
    values = (results[index] for index in range(count, count + len(names)))  # (N, C, H, W)
    return {name: np.ascontiguousarray(value[:1].transpose(0, 2, 3, 1)) for name, value in zip(names, values, strict=True)}


def _read(path: Path, *, alone: bool = False) -> Any:
    """The model in a folder, or if `alone` in an `.xml` file with its `.bin` beside it.

    Raises:
        BadInput: a file cannot be read, or is larger than any network.
        Refused: it does not hold exactly one network, or that is damaged.
    """
    hint = "export it again"
    with reading(path):
        beside = [path] if alone else [] if path.is_file() else path.iterdir()
        files = [file for file in beside if file.suffix == ".xml"]
        if len(files) != 1 or not files[0].with_suffix(".bin").is_file():
            raise Refused(f"OpenVINO cannot open `{path}`: it is no folder with one `.xml` file and its `.bin`", hint=hint)
        pair = [files[0], files[0].with_suffix(".bin")]
        if sum(file.stat().st_size for file in pair) > MAX_FILE_BYTES:
            raise BadInput(f"`{path}` is larger than {MAX_FILE_BYTES >> 30} GiB, the most that is read of a network")
        # Read here: OpenVINO would map the weights into memory, and a file that changes later would end the process.
        xml, weights = (file.read_bytes() for file in pair)
    openvino = load()
    with quiet() as printed:
        try:
            return openvino.Core().read_model(xml, weights)
        except RuntimeError as err:
            failure = err
    raise Refused(f"OpenVINO cannot open `{path}`: {reason(failure, printed)}", hint=hint) from failure


def _fix_batch(model: Any) -> None:
    """Sets a free batch to one image: NPUs take only networks of fixed shapes."""
    if model.is_dynamic() and len(model.inputs) == 1:
        shape = model.inputs[0].get_partial_shape()
        model.reshape([1, *(shape[axis] for axis in range(1, len(shape)))])


def _compiled(model: Any, path: Path, plugin: str, precision: str, threads: int) -> Any:
    openvino = load()
    # The bindings import numpy when a tensor's data are first asked for. Two threads that do so at once deadlock, one holding the
    # interpreter's lock and one the import's; so it is done here, before a session has threads.
    openvino.Tensor(openvino.Type.u8, openvino.Shape([1])).data  # noqa: B018
    with quiet() as printed:
        try:
            return openvino.Core().compile_model(model, plugin, settings_of(plugin, precision, threads))
        except RuntimeError as err:
            failure = err
    raise Refused(f"OpenVINO cannot compile `{path}`: {reason(failure, printed)}") from failure


def _interface(compiled: Any, path: Path, output_count: int = 1) -> tuple[str, int | None, tuple[int, ...]]:
    """The input's dtype, its batch (None if it is free), and its other sides (H, W, C).

    Raises:
        Refused: the input and first output are not a classifier's, or there are more than `output_count` outputs.
    """
    ports = (*compiled.inputs, *compiled.outputs)
    dtypes = [port.get_element_type().get_type_name() for port in ports]
    shapes: list[list[Any]] = [[dim.get_length() if dim.is_static else None for dim in port.get_partial_shape()] for port in ports]
    hint = "open files that this tool wrote"
    image = len(shapes[0]) == 4 and None not in shapes[0][1:] and shapes[0][3] in CHANNEL_COUNTS
    if len(compiled.inputs) != 1 or dtypes[0] not in _DTYPES or not image:
        raise Refused(f"`{path}` does not take one (N, H, W, C) tensor of uint8 or float32", hint=hint)
    if len(compiled.outputs) != output_count or dtypes[1] != "f32" or len(shapes[1]) != 2:
        raise Refused(f"`{path}` does not give one (N, classes) tensor of float32", hint=hint)
    return _DTYPES[dtypes[0]], shapes[0][0], tuple(shapes[0][1:])
