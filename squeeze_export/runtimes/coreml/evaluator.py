"""The Core ML evaluator: runs an `.mlpackage` in numpy, on any machine. Its figures are *emulated*, never a device's.

Core ML itself runs only on Apple's systems. The evaluator reads nothing but the saved package (manifest, model file, `weight.bin`),
shares no code with what wrote it, and computes what the operators' documentation says: it proves what is in the file. It cannot
know how fast a device is, nor how it rounds intermediate values.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from squeeze_export.core import Artifact, ByteArray, Evidence, FloatArray, Placement
from squeeze_export.errors import Refused
from squeeze_export.formats.coreml import identifier
from squeeze_export.formats.coreml.classifier import Classifier
from squeeze_export.formats.coreml.program import Operation, Program
from squeeze_export.formats.coreml.values import Array, Constant, TensorType, constant
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.runtimes.coreml import open_package
from squeeze_export.runtimes.coreml.arguments import HINT, MAX_RESULT_ELEMENTS, Arguments, Kernel
from squeeze_export.runtimes.coreml.constants import UNPACKERS
from squeeze_export.runtimes.coreml.operators import OPERATORS
from squeeze_export.runtimes.coreml.placement import read_placement
from squeeze_export.runtimes.quiet import one_line
from squeeze_export.runtimes.session import BatchSession, check_present, check_threads

NAME = "coreml-evaluator"
DEVICES = ("cpu",)
MAX_OPEN_BATCH = 8
"""Images at once if the package leaves their number free: more would not be faster."""
OPSETS: Mapping[str, str] = {"CoreML7": "iOS 17", "CoreML8": "iOS 18"}
"""Operator sets that are known, and the systems that they came with."""
MAX_ELEMENTS = 2**27
"""Of one tensor as declared; 500 MB in float32, far above any SqueezeNet's."""
MAX_RANK = 6
MAX_ALIVE_ELEMENTS = 2 * MAX_RESULT_ELEMENTS
"""Of all tensors that are kept at once: an operation's operands and results."""


def devices() -> tuple[str, ...]:
    """The CPU: the evaluator needs only numpy."""
    return DEVICES


def open_session(artifact: Artifact, *, device: str, threads: int) -> EvaluatorSession:
    """Opens a package, and runs it once on black images, so that what cannot be computed is refused now and not in the middle of a
    job; see `Runtime.open_session`.

    Args:
        artifact: of the target `coreml`.
        device: must be `cpu`.
        threads: of numpy's matrix products.
    """
    check_present(device, DEVICES, f"`{NAME}`")
    check_threads(threads)
    return EvaluatorSession(open_package(artifact.path), artifact, threads)


def inner_values(artifact: Artifact, names: Sequence[str], pixels: ByteArray) -> Mapping[str, FloatArray]:
    """A package's inner tensors for one image, computed as a session does; see `Runtime.inner_values`."""
    session = open_session(artifact, device=DEVICES[0], threads=1)
    inner = {name: identifier(name) for name in names}  # a package calls `a/b` `a_b`
    missing = [name for name, tensor in inner.items() if tensor not in session.program]
    if missing:
        raise Refused(f"`{artifact.path}` has no tensor for `{missing[0]}`", hint="export the file again")
    found = session.evaluate(np.repeat(pixels, session.least, axis=0), list(inner.values()))
    for name, tensor in inner.items():
        if found[tensor].ndim != 4 or found[tensor].dtype.kind != "f":
            text = f"{found[tensor].dtype}{list(found[tensor].shape)}"
            raise Refused(f"`{name}` is {text} in `{artifact.path}`, not floats of (1, C, H, W)", hint="export the file again")
    return {name: np.ascontiguousarray(found[tensor][:1].transpose(0, 2, 3, 1), np.float32) for name, tensor in inner.items()}


class EvaluatorSession(BatchSession):
    """A package opened in the evaluator: images one by one, arrays in pieces. Several threads may use it at once.

    Attributes:
        threads: of numpy's matrix products.
        program: what is run.

    Raises:
        Refused: the program cannot be run, or does not give one row of numbers for each image.
    """

    runtime = NAME
    evidence: Evidence = "emulated"
    kernels = "numpy"

    def __init__(self, package: Classifier, artifact: Artifact, threads: int) -> None:
        pixels = package.pixels
        most = max(pixels.least, min(pixels.most, MAX_OPEN_BATCH))
        super().__init__((pixels.height, pixels.width, pixels.channels), least=pixels.least, most=most)
        self._package, self._artifact, self.threads = package, artifact, threads
        self.program = Executable(package.program, package.result)
        self.evaluate(self.black_images())

    @cached_property
    def placement(self) -> Placement:
        """Read from the package; nothing was placed on a device."""
        return read_placement(self._package.program, scheme_named(self._artifact.scheme).floats)

    def run_piece(self, images: ByteArray) -> FloatArray:
        """See `BatchSession.run_piece`."""
        rows: FloatArray = self.evaluate(images)[self._package.result]
        if not np.isfinite(rows).all():
            raise Refused(f"`{self._artifact.path}` gives what is no finite number", hint="export it again")
        return rows

    def evaluate(self, images: ByteArray, keep: Sequence[str] = ()) -> Mapping[str, Array]:
        """Runs one piece.

        Args:
            images: (N, H, W, 3) uint8, as many images as the package takes at once.
            keep: the package's names of inner tensors to return as well.

        Returns:
            Name -> tensor, of the result and of `keep`.

        Raises:
            Refused: the program contradicts its own types, or does not give one row of numbers for each image.
        """
        taken, path = self._package.pixels, self._artifact.path
        source: Array = images
        if taken.image:  # Core ML hands an image to the program as planes of 0 to 255
            source = (images[..., ::-1] if taken.bgr else images).transpose(0, 3, 1, 2)
        try:
            with _blas(self.threads):
                found = self.program.run(np.ascontiguousarray(source, taken.dtype), keep)
        except MemoryError as err:
            raise Refused(f"the input of `{path}` does not fit into memory", hint=HINT) from err
        result = found[self._package.result]
        if result.ndim != 2 or len(result) != len(images) or result.dtype.kind != "f":
            raise Refused(f"`{path}` gives {result.dtype}{list(result.shape)}, not one row of numbers an image", hint=HINT)
        return found

    def free(self) -> None:
        """See `BatchSession.free`."""
        del self.program


@dataclass(frozen=True)
class _Step:
    """One operation that runs.

    Attributes:
        operation: what is run.
        name: of the tensor that it makes.
        type: declared; None of a classifier's row.
        kernel: what computes it.
        sources: the tensors that it reads.
    """

    operation: Operation
    name: str
    type: TensorType | None
    kernel: Kernel
    sources: tuple[str, ...]


class Executable:
    """A program made ready: constants unpacked, operators bound to their kernels. Several threads may run it at once: running it
    changes nothing.

    Attributes:
        operations: those that run; what depends only on constants has been computed already.

    Args:
        program: what to run.
        result: name of the output that is wanted.

    Raises:
        Refused: an operator, argument or type that the evaluator does not know, constants that cannot be unpacked, or a result that
            is not of its declared type.
    """

    def __init__(self, program: Program, result: str) -> None:
        self._input, self._type, self._result = program.inputs[0].name, _checked(program), result
        constants: dict[str, Constant] = {}
        steps: list[_Step] = []
        for operation in program.operations:
            _afford(held.array for held in constants.values())
            given = Arguments(operation, constants)
            try:
                if operation.operator in UNPACKERS:
                    constants[operation.name] = UNPACKERS[operation.operator](given)
                    given.close()
                    _check(operation, _single(operation), constants[operation.name].array)
                    continue
                step = _step(operation, OPERATORS[operation.operator](given), given)
            except (ValueError, MemoryError) as err:  # the constants' own
                given.refuse(f"cannot be unpacked: {err}")
            given.close()
            if step.sources:
                steps.append(step)
            else:
                constants[step.name] = constant(_run(step, {}), _single(operation).element.name)
        if result not in {step.name for step in steps}:
            raise Refused(f"the output `{result}` does not depend on the input", hint=HINT)
        self._steps = tuple(steps)
        self._last_use = {name: index for index, step in enumerate(steps) for name in step.sources}
        self.operations = tuple(step.operation for step in steps)

    def __contains__(self, name: str) -> bool:
        return any(step.name == name for step in self._steps)

    def run(self, source: Array, keep: Collection[str] = ()) -> Mapping[str, Array]:
        """Runs the program.

        Args:
            source: the input, of its declared type.
            keep: names of inner tensors to return as well.

        Returns:
            Name -> tensor, of the result and of `keep`.

        Raises:
            Refused: an operation does not fit its operands, or its result does not fit its declared type.
        """
        if not self._type.fits(source):
            raise Refused(f"an input of {source.dtype}{list(source.shape)}, the program takes `{self._type}`", hint=HINT)
        wanted = {self._result, *keep}
        alive: dict[str, Array] = {self._input: source}
        for index, step in enumerate(self._steps):
            alive[step.name] = _run(step, alive)
            _afford(alive.values())
            for name in {*step.sources, step.name}:
                # Each tensor is dropped as soon as nothing needs it: all together would be tens of megabytes.
                if name not in wanted and self._last_use.get(name, -1) <= index:
                    del alive[name]
        return {name: alive[name] for name in wanted}


def _checked(program: Program) -> TensorType:
    """The type of a program's input.

    Raises:
        Refused: the program has something that the evaluator does not know.
    """
    if program.opset not in OPSETS:
        raise Refused(f"a program of the operator set `{program.opset}`; the evaluator reads {', '.join(OPSETS)}", hint=HINT)
    if len(program.inputs) != 1 or program.inputs[0].type is None:
        raise Refused(f"a program of `{len(program.inputs)}` inputs, where one tensor is needed", hint=HINT)
    _check_type("the input", program.inputs[0].type)
    for operation in program.operations:
        if operation.operator not in (*UNPACKERS, *OPERATORS):
            known = ", ".join((*UNPACKERS, *OPERATORS))
            raise Refused(f"the evaluator knows no operator `{operation.operator}`", hint=f"it knows: {known}")
        if operation.nested:
            raise Refused(f"{operation} has operators inside, which the evaluator does not handle", hint=HINT)
        written = [entry.type for bound in operation.arguments.values() for entry in bound if isinstance(entry, Constant)]
        for kind in (*written, *(output.type for output in operation.outputs if output.type is not None)):
            _check_type(str(operation), kind)
    return program.inputs[0].type


def _check_type(what: str, kind: TensorType) -> None:
    sizes = [size for size in kind.shape if size is not None]
    if not kind.element.numpy:
        raise Refused(f"{what} has a tensor of `{kind.element.name}`, which the evaluator does not handle", hint=HINT)
    if len(kind.shape) > MAX_RANK:
        raise Refused(f"{what} has a tensor of `{len(kind.shape)}` dimensions; `{MAX_RANK}` are possible", hint=HINT)
    if any(size < 1 for size in sizes) or math.prod(sizes) > MAX_ELEMENTS:
        raise Refused(f"{what} has a tensor of `{sizes}` elements; `1` to `{MAX_ELEMENTS}` are possible", hint=HINT)


def _single(operation: Operation) -> TensorType:
    declared = operation.outputs[0].type
    if len(operation.outputs) != 1 or declared is None:
        raise Refused(f"{operation} gives `{len(operation.outputs)}` results, where one tensor is needed", hint=HINT)
    return declared


def _step(operation: Operation, kernel: Kernel, given: Arguments) -> _Step:
    if operation.operator != "classify":
        return _Step(operation, operation.name, _single(operation), kernel, tuple(given.sources))
    # It gives a label and, last, a dictionary: here, the row that both are made of stands for the dictionary.
    return _Step(operation, operation.outputs[-1].name, None, kernel, tuple(given.sources))


def _run(step: _Step, alive: Mapping[str, Array]) -> Array:
    try:
        # What overflows float16 is infinite on a device too; `run_piece` checks the logits.
        with np.errstate(all="ignore"):
            result = step.kernel(alive)
    except (ValueError, IndexError, TypeError, MemoryError) as err:
        raise Refused(f"{step.operation} cannot be computed: {one_line(err)}", hint=HINT) from err
    if step.type is not None:
        _check(step.operation, step.type, result)
    return result


def _afford(arrays: Iterable[Array]) -> None:
    if sum(array.size for array in arrays) > MAX_ALIVE_ELEMENTS:
        raise Refused(f"the program holds tensors of more than `{MAX_ALIVE_ELEMENTS}` elements at once", hint=HINT)


def _check(operation: Operation, declared: TensorType, found: Array) -> None:
    if not declared.fits(found):
        raise Refused(f"{operation} gives {found.dtype}{list(found.shape)}, it is declared as `{declared}`", hint=HINT)


_lock = threading.Lock()
_running: list[Any] = []


@contextmanager
def _blas(threads: int) -> Iterator[None]:
    """Inside, numpy's matrix products use this many threads.

    The number holds for the whole process: of sessions that run side by side, the first one's counts, and the last one to end
    restores what was before.
    """
    from threadpoolctl import ThreadpoolController

    with _lock:
        _running.append(_running[-1] if _running else ThreadpoolController().limit(limits=threads, user_api="blas"))
    try:
        yield
    finally:
        with _lock:
            limiter = _running.pop()
            if not _running:
                limiter.restore_original_limits()
