"""The audit, the same for all formats: what is inside a file, and why it is not the integer network that it claims to be.

A format supplies its `Contents` (see `contents.py`) and a `Policy`: tables of operator kinds, and an `Arithmetic` that says which
operators compute in float, and why. Formats whose integers are carried by pairs of operators (QDQ) share one: `qdq.Groups`. The
rest is here: the counts, the float tensors, the bytes of weights, the layers declared as kept in float, and the violations.

Violations come in this order: a file without convolutions; a layer wrongly declared as kept in float; no convolution in integers;
then, in the file's order, each product in float with the reasons, and each other float operator; then each constant stored in float
that an integer network does not need. Float operators are allowed where they convert pixels to integers before the first product,
behind the last product, and where they belong to a layer kept in float. A file that claims the scheme `int8-npu` may be float only
where pixels enter and logits leave.

Nothing is charged on a guess: an opaque operator is no violation but `untold`, and what only follows from it is not held against
its neighbours. So is a product that devices compute in different ways. A file whose weights alone are quantized is said to be one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from squeeze_export.core import Audit
from squeeze_export.errors import BadInput
from squeeze_export.formats.contents import Contents, FileOperator, FileTensor

MIXED_SCHEMES = ("int8", "int8-per-tensor")
"""In files of these schemes, and in files that name no scheme, a layer may be kept in float."""
ALL_INTEGER_SCHEME = "int8-npu"


class Arithmetic(Protocol):
    """Which of a file's operators compute in float. `place` is an operator's index in `Contents.operators`."""

    @abstractmethod
    def is_float(self, place: int) -> bool:
        """Whether an operator computes in floating point while the network runs."""

    @abstractmethod
    def reasons(self, place: int) -> Sequence[str]:
        """Why a product cannot be computed in integers; empty where it can."""

    @abstractmethod
    def takes_parameter(self, place: int, index: int) -> bool:
        """Whether an integer network may have a float constant as this input of the operator, such as a scale or a bound."""

    def rounds(self, place: int, index: int) -> bool:
        """Whether a runtime makes integers of a float constant here when it opens the file. In a file of another tool that is no
        fault; one of ours stores the integers.
        """
        return False

    def doubts(self, place: int) -> Sequence[str]:
        """Why it depends on the device whether an operator computes in integers; empty where it does not."""
        return ()


@dataclass(frozen=True)
class Policy:
    """What the audit must know about a format. Kinds are those of `FileOperator.kind`.

    Attributes:
        arithmetic: makes a file's `Arithmetic`.
        products: operators that multiply activations and weights, in floats or integers.
        convolution: the product that may be kept in float; its inputs are data, weights and an optional bias.
        passing: operators without multiplication that may be float next to a layer that is kept in float.
        borders: operators that only convert between integers and floats. The surroundings of a float layer end there.
        preparing: operators that may be float, with float constants, between the pixels and the first product: they convert the
            pixels to integers.
        converting: operators that may be float anywhere before the last product, since any float operator next to them is reported.
        tail: operators that may be float behind the last product; None for all.
        delivering: operators that may give float logits in a file that claims to be all integers.
        kept_name: place of a float convolution -> its name in the graph, spelt as `spelt` does.
        spelt: name in the graph -> the same name as the format spells it.
        float_bias: whether the format's biases are always float.
        bias_sum: the operator that adds a bias to a product, in a format whose convolutions have no bias.
        faults: other problems of an operator, one sentence each; an operator that has some is checked no further.
        packed: place of a product -> how its weights are stored where they are quantized: `int8`, `8-bit lookup table`; otherwise
            empty.
    """

    arithmetic: Callable[[Contents], Arithmetic]
    products: frozenset[str]
    convolution: str
    passing: frozenset[str]
    borders: frozenset[str]
    preparing: frozenset[str]
    kept_name: Callable[[Contents, int], str]
    converting: frozenset[str] = frozenset()
    tail: frozenset[str] | None = None
    delivering: frozenset[str] = frozenset()
    spelt: Callable[[str], str] = str
    float_bias: bool = False
    bias_sum: str = ""
    faults: Callable[[Contents, int], Iterable[str]] = lambda contents, place: ()
    packed: Callable[[Contents, int], str] = lambda contents, place: ""


@dataclass(frozen=True)
class _Kept:
    """The layers that a file declares as kept in float.

    Attributes:
        names: the declared convolutions that really compute in float.
        wrong: the other declared names.
        convolutions: the places of `names`.
        operators: these places, and those of the operators around them that are float because of them.
    """

    names: tuple[str, ...]
    wrong: tuple[str, ...]
    convolutions: frozenset[int]
    operators: frozenset[int]


def audit(contents: Contents, policy: Policy) -> Audit:
    """Audits a file. `violations` say why it is not an integer network: a float file has many, and they are no fault there.

    Raises:
        BadInput: so many operators follow one another between two integers that this program cannot look through them.
    """
    try:
        return _audited(contents.whole, policy)
    except RecursionError as err:
        raise BadInput("it has too many float operators one behind the other to be looked through") from err


def _audited(file: Contents, policy: Policy) -> Audit:
    numbers = policy.arithmetic(file)
    floating = frozenset(place for place in range(len(file.operators)) if numbers.is_float(place))
    kept = _kept(file, policy, floating)
    computing = [file.operators[place] for place in sorted(floating)]
    stored = [t for t in file.constants if t.floating and not _read_as(file, t, numbers.takes_parameter)]
    inputs = [tensor for tensor in file.inputs if tensor.floating]
    computed = [tensor for operator in computing for tensor in operator.outputs if tensor.floating]
    return Audit(
        operators=dict(sorted(Counter(operator.kind for operator in file.operators).items())),
        float_operators=tuple(map(str, computing)),
        float_tensors=tuple(f"{tensor.name} {tensor}" for tensor in (*inputs, *stored, *computed)),
        violations=tuple(_violations(file, policy, numbers, floating, kept, stored)),
        weight_bytes=_weight_bytes(file.constants),
        kept_float=kept.names,
        untold=(*_untold(file, numbers), *file.opaque),
    )


def _untold(file: Contents, numbers: Arithmetic) -> Iterator[str]:
    for place, operator in enumerate(file.operators):
        if operator.opaque:
            yield f"{_named(operator)} cannot be seen through: {operator.opaque}"
        else:
            yield from (f"{_named(operator)} computes in integers or in float: {doubt}" for doubt in numbers.doubts(place))


def _weight_bytes(constants: Sequence[FileTensor]) -> dict[str, int]:
    found: Counter[str] = Counter()
    seen: set[Hashable] = set()
    for tensor in constants:
        place = tensor.key if tensor.storage is None else (tensor.storage,)
        if tensor.size_bytes and place not in seen:
            found[tensor.dtype] += tensor.size_bytes
            seen.add(place)
    return dict(sorted(found.items()))


def _read_as(file: Contents, constant: FileTensor, role: Callable[[int, int], bool]) -> bool:
    """Whether a constant is read, and only in this role."""
    readers = file.readers.get(constant.key, ())
    return bool(readers) and all(role(place, index) for place, index in readers)


def _violations(
    file: Contents,
    policy: Policy,
    numbers: Arithmetic,
    floating: frozenset[int],
    kept: _Kept,
    stored: Sequence[FileTensor],
) -> Iterator[str]:
    products = frozenset(place for place, operator in enumerate(file.operators) if operator.kind in policy.products)
    before, behind = file.before(products), file.behind(products)
    first = {reader for tensor in file.inputs for reader, _ in file.readers.get(tensor.key, ())}
    ahead = (first | file.behind(first)) - behind
    preparing = frozenset(place for place in ahead if file.operators[place].kind in policy.preparing)
    tail = frozenset(place for place in floating if _may_be_float_behind(file, policy, place)) - before - products
    faults = {place: found for place in range(len(file.operators)) if (found := tuple(policy.faults(file, place)))}
    clear = not file.opaque and not any(operator.opaque for operator in file.operators)
    if not products and clear:
        yield "the file holds no convolution"
    for name in kept.wrong:
        yield f"the file says that `{name}` was kept in float, which is no convolution in float here"
    if products and products <= floating and clear and not products & faults.keys():
        yield f"no convolution computes in integers{_instead(file, policy, products)}"
    for place, operator in enumerate(file.operators):
        if operator.opaque or place in kept.operators:
            continue
        if place in faults:
            yield from faults[place]
        elif place not in floating:
            continue
        elif place in products:
            yield f"{_named(operator)} computes in float: {', '.join(numbers.reasons(place))}"
        elif place in before:
            if place not in preparing and operator.kind not in policy.converting:
                yield f"{_named(operator)} computes in float before the last convolution"
        elif place not in tail and file.scheme == ALL_INTEGER_SCHEME:
            yield f"{_named(operator)} computes in float, in a file of the scheme `{ALL_INTEGER_SCHEME}`"
        elif place not in tail:
            yield f"{_named(operator)} computes in float behind the last convolution"

    def allowed(place: int, index: int) -> bool:
        if place in preparing or (place in kept.convolutions and index > 0) or numbers.takes_parameter(place, index):
            return True
        if not file.scheme and numbers.rounds(place, index):
            return True
        if file.operators[place].opaque or place in faults or (place in tail and file.operators[place].inputs[index].is_row):
            return True
        return _takes_bias(file, policy, kept.operators, place, index)

    for tensor in stored:
        if not _read_as(file, tensor, allowed):
            yield f"the constant `{tensor.name}` is stored as {tensor}"


def _instead(file: Contents, policy: Policy, products: frozenset[int]) -> str:
    """What a file without integer products is, as far as it tells."""
    found = Counter(filter(None, (policy.packed(file, place) for place in sorted(products))))
    listed = ", ".join(f"{how} in {count} of {len(products)} products" for how, count in found.items())
    borders = (operator for operator in file.operators if operator.kind in policy.borders)
    weights_only = all(tensor.constant for operator in borders for tensor in operator.inputs)
    quantized = f"{'weight-only quantization' if weights_only else 'quantized weights'} ({listed})" if listed else ""
    told = "; ".join(filter(None, (file.form, quantized)))
    return f": {told}" if told else ""


def _may_be_float_behind(file: Contents, policy: Policy, place: int) -> bool:
    """Whether an operator may be float behind the last product."""
    operator = file.operators[place]
    if file.scheme == ALL_INTEGER_SCHEME:
        return operator.kind in policy.delivering and any(tensor.key in file.given for tensor in operator.outputs)
    return policy.tail is None or operator.kind in policy.tail


def _named(operator: FileOperator) -> str:
    return f"{operator.kind} `{operator.name}`"


def _takes_bias(file: Contents, policy: Policy, kept: Collection[int], place: int, index: int) -> bool:
    """Whether an input is a bias that the format stores in float; in a sum, the bias of a layer kept in float."""
    operator = file.operators[place]
    if policy.float_bias and operator.kind in policy.products:
        return index == 2
    if operator.kind != policy.bias_sum or place not in kept or not operator.inputs[index].is_row:
        return False
    makers = (file.maker(tensor) for tensor in operator.inputs)
    return any(maker is not None and maker.kind == policy.convolution for maker in makers)


def _kept(file: Contents, policy: Policy, floating: frozenset[int]) -> _Kept:
    """Checks the file's declaration. A declared name must belong to exactly one convolution whose operands and results are all
    float and whose weights and bias are constants.
    """
    named: dict[str, list[int]] = {}
    for place in sorted(floating):
        operator = file.operators[place]
        whole = all(t.floating for t in (*operator.inputs, *operator.outputs)) and all(t.constant for t in operator.inputs[1:])
        if operator.kind == policy.convolution and not operator.opaque and whole:
            named.setdefault(policy.kept_name(file, place), []).append(place)
    single = {name: places[0] for name, places in named.items() if name and len(places) == 1}
    declared = tuple(dict.fromkeys(file.declared_float))
    allowed = declared if file.scheme in ("", *MIXED_SCHEMES) else ()
    found = {name: single.pop(policy.spelt(name)) for name in allowed if policy.spelt(name) in single}
    convolutions = frozenset(found.values())
    wrong = tuple(name for name in declared if name not in found)
    return _Kept(tuple(found), wrong, convolutions, _joined(file, policy, floating, convolutions))


def _joined(file: Contents, policy: Policy, floating: frozenset[int], convolutions: frozenset[int]) -> frozenset[int]:
    """The convolutions, and the `passing` operators and borders that float tensors connect to them. The search ends at a border:
    behind it are integers, and another float reader of these has no excuse.
    """
    found = set(convolutions)
    waiting = list(convolutions)
    while waiting:
        operator = file.operators[waiting.pop()]
        if operator.kind in policy.borders:
            continue
        beside = {file.makers.get(tensor.key) for tensor in operator.inputs if tensor.floating}
        beside |= {reader for tensor in operator.outputs if tensor.floating for reader, _ in file.readers.get(tensor.key, ())}
        able = policy.passing | policy.borders
        new = {place for place in beside if place in floating and file.operators[place].kind in able} - found
        found |= new
        waiting += new
    return frozenset(found)
