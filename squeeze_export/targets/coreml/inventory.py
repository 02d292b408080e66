"""What is inside a Core ML package: which operators compute in integers, and what was left in float.

An ML program has no integer convolution. An operator may run in integers where all its operands come from `dequantize` (and a
convolution's weights from integers) and all its results go to `quantize`, a ReLU between included. Such a group counts as integer
here; the notional floats inside it do not count as float tensors, nor do the scales. A convolution's bias has no other form than
float: it is listed, and allowed; so is what the package says was kept in float on request. Of how `coreml.py` writes a package,
nothing here knows more than how it spells names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from squeeze_export.core import Audit, TensorSpec
from squeeze_export.errors import BadInput
from squeeze_export.targets._kept_float import KEPT_FLOAT_KEY, declared_float
from squeeze_export.targets._kept_operators import Kept, kept_operators
from squeeze_export.targets.coreml.operators import Program, Tensor, read_program
from squeeze_export.targets.coreml.package import Package, read_package
from squeeze_export.targets.coreml.program import identifier
from squeeze_export.targets.coreml.view import MULTIPLYING, View

_PREPARING = ("quantize", "dequantize", "cast", "transpose", "reshape", "mul", "add", "sub")
"""May stand in float before the first convolution: they bring the input to integers."""
_SCHEME_KEY = "squeeze_export.scheme"
"""Where a package of ours says what it is."""


def describe_package(path: Path) -> tuple[TensorSpec, TensorSpec]:
    """Input and output of a package; of a classifier, the output is the row of numbers that it gives beside its labels.

    Raises:
        BadInput: no such package, or not one image or float tensor in and one row of numbers out.
        Unavailable: coremltools is not installed.
    """
    package = read_package(path)
    program, description = _program(package, path), package.model.description
    made = {name: tensor for operator in program.operators for name, tensor in operator.outputs.items()}
    arrays = [entry.name for entry in description.output if entry.type.WhichOneof("Type") == "multiArrayType"]
    refusal = BadInput(f"`{path}` is none of ours: it does not take pixels alone, or gives something else than one row of float32")
    if len(description.input) != 1 or len(arrays) != 1 or arrays[0] not in made:
        raise refusal
    taken, result = description.input[0], made[arrays[0]]
    if taken.type.WhichOneof("Type") == "imageType":
        image = taken.type.imageType
        source = TensorSpec(taken.name, (1, image.height, image.width, 3), "uint8", "NHWC", 1.0, 0)
    else:
        declared = program.inputs.get(taken.name, Tensor("", ()))
        source = TensorSpec(taken.name, tuple("N" if size == "?" else size for size in declared.shape), declared.dtype, "NHWC")
    if source.dtype not in ("uint8", "float32") or len(source.shape) != 4 or source.shape[3] != 3:
        raise refusal
    if result.dtype != "float32" or len(result.shape) != 2:
        raise refusal
    return source, TensorSpec(arrays[0], (source.shape[0], result.shape[1]), "float32", "NC")


def audit_package(path: Path) -> Audit:
    """Takes stock of a package.

    Returns:
        The audit. `violations` name each convolution or product that computes in float and why, each constant stored in float,
        each float operator before the last convolution, and what cannot be seen through. Convolutions that the package says were
        kept in float are none of them, with their constants and what is in float because of them; a name among them that is no
        float convolution is one. `weight_bytes` counts the indices of a palette as integers of their bits.

    Raises:
        BadInput: no such package, or it is damaged.
        Unavailable: coremltools is not installed.
    """
    package = read_package(path)
    program = _program(package, path)
    view, said = View(program), package.model.description.metadata.userDefined
    steps = [view.step(operator) for operator in program.operators]
    kept = kept_operators(steps, declared_float(said.get(KEPT_FLOAT_KEY)), said.get(_SCHEME_KEY, ""), identifier)
    running = [operator for operator in program.operators if operator.kind != "const"]
    floating = [operator for operator in running if view.is_float(operator)]
    taken = [f"{name} {tensor}" for name, tensor in program.inputs.items() if tensor.floating]
    stored = [f"{operator.name} {operator.outputs[operator.name]}" for operator in view.float_constants]
    computed = [f"{name} {tensor}" for operator in floating for name, tensor in operator.outputs.items() if tensor.floating]
    return Audit(
        dict(sorted(Counter(operator.kind for operator in running).items())),
        tuple(f"{operator.kind} {operator.name}" for operator in floating),
        (*taken, *stored, *computed),
        tuple(_violations(view, program, kept)),
        dict(sorted(view.weight_bytes.items())),
        kept.names,
    )


def _program(package: Package, path: Path) -> Program:
    try:
        return read_program(package)
    except ValueError as err:
        raise BadInput(f"`{path}` cannot be read as a Core ML package: {err}") from err


def _violations(view: View, program: Program, kept: Kept) -> Iterator[str]:
    products = [operator for operator in program.operators if operator.kind in MULTIPLYING]
    if not products:
        yield "the package holds no convolution"
    before, after = view.ancestors(products), view.descendants(products)
    preparing = {o.name for o in program.operators if o.kind in _PREPARING and o.name not in after}
    yield from kept.violations
    if kept.names and all(view.is_float(operator) for operator in products):
        yield "no convolution computes in integers"
    for place, operator in enumerate(program.operators):
        if not operator.plain:
            yield f"{operator.kind} `{operator.name}` cannot be seen through: it has operators inside"
        elif place in kept.operators:
            continue
        elif operator.kind in MULTIPLYING and view.is_float(operator):
            yield f"{operator.kind} `{operator.name}` computes in float: {', '.join(view.reasons(operator))}"
        elif operator.name in before - preparing and view.is_float(operator):
            yield f"{operator.kind} `{operator.name}` computes in float before the last convolution"
    convolutions = [program.operators[place] for place in kept.convolutions]
    for operator in view.float_constants:
        name = operator.name
        if not (view.is_bias(name) or view.read_by(name, preparing) or view.belongs_to(name, convolutions)):
            yield f"the constant `{operator.name}` is stored as {operator.outputs[operator.name]}"
