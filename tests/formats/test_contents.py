"""What is asked of a file's contents, and what the audit knows of the schemes."""

from __future__ import annotations

import pytest

from squeeze_export.errors import BadInput
from squeeze_export.formats import format_named
from squeeze_export.formats.audit import ALL_INTEGER_SCHEME, MIXED_SCHEMES
from squeeze_export.formats.contents import FREE, UNTOLD, Contents, FileOperator, FileTensor
from squeeze_export.formats.onnx import POLICY
from squeeze_export.graph import quantized
from squeeze_export.registry import FORMATS


def tensor(name: str, **fields: object) -> FileTensor:
    return FileTensor(name, "float32", (1, 4), **fields)  # type: ignore[arg-type]


def test_the_audit_knows_the_schemes_as_the_graph_does() -> None:
    """It shares no code with what writes a file, so it holds the names itself."""
    assert MIXED_SCHEMES == quantized.MIXED_SCHEMES
    assert quantized.INT8_NPU.name == ALL_INTEGER_SCHEME


def test_before_and_behind() -> None:
    """a -> first -> b -> second -> c, and d -> third -> e beside them."""
    a, b, c, d, e = (tensor(name) for name in "abcde")
    operators = (
        FileOperator("X", "first", (a,), (b,)),
        FileOperator("X", "second", (b,), (c,)),
        FileOperator("X", "third", (d,), (e,)),
    )
    contents = Contents("onnx", operators, (a, d), (c, e))
    assert (contents.before([1]), contents.behind([0])) == ({0}, {1})
    assert (contents.before([2]), contents.behind([2])) == (set(), set())
    assert contents.maker(b) is operators[0]
    assert contents.maker(a) is None
    assert contents.readers_of(b) == [(operators[1], 0)]
    assert contents.given == {"c", "e"}


def test_a_circle_ends() -> None:
    a, b = tensor("a"), tensor("b")
    contents = Contents("tflite", (FileOperator("X", "1", (a,), (b,)), FileOperator("X", "2", (b,), (a,))), (), ())
    assert contents.before([0]) == contents.behind([0]) == {0, 1}


def test_bodies_are_part_of_the_whole() -> None:
    inner = Contents("tflite", (FileOperator("X", "in", (tensor("a", place=(1, 0)),), ()),), (), (), (tensor("w", place=(1, 1)),))
    outer = Contents("tflite", (FileOperator("X", "out", (tensor("a", place=(0, 0)),), ()),), (), (), bodies=(inner,))
    assert [operator.name for operator in outer.whole.operators] == ["out", "in"]
    assert set(outer.whole.readers) == {(0, 0), (1, 0)}
    assert [constant.key for constant in outer.whole.constants] == [(1, 1)]


@pytest.mark.parametrize(
    ("dtype", "floating"),
    [("float16", True), ("bfloat16", True), ("unknown", True), ("nf4", True), ("uint8", False), ("int64", False), ("bool", False)],
)
def test_what_cannot_be_shown_to_be_an_integer_is_a_float(dtype: str, floating: bool) -> None:
    assert FileTensor("x", dtype, ()).floating == floating


def test_a_tensor_in_words() -> None:
    assert str(FileTensor("x", "int8", (FREE, 8, 8, 4))) == "int8[N,8,8,4]"
    assert str(FileTensor("x", "float32", ())) == "float32[]"
    assert str(FileTensor("x", "float32", UNTOLD)) == "float32"


def test_a_format_that_is_not_there() -> None:
    assert [format_named(name).NAME for name in FORMATS] == list(FORMATS)
    with pytest.raises(BadInput, match="no format is called `onyx`"):
        format_named("onyx")


def test_each_operator_is_judged_once() -> None:
    """Many that read one another's operands must not be judged again for each reader of each operand."""
    asked: list[str] = []

    class Counted(Contents):
        def maker(self, tensor: FileTensor) -> FileOperator | None:
            asked.append(tensor.name)
            return super().maker(tensor)

    count = 40
    step = [tensor(f"s{n}", constant=True) for n in range(count)]
    stored = [FileTensor(f"q{n}", "uint8", (1, 4)) for n in range(count)]
    real, joined = ([tensor(f"{kind}{n}") for n in range(count)] for kind in ("r", "j"))
    given = [FileTensor(f"o{n}", "uint8", (1, 4)) for n in range(count)]
    operators = (
        *(FileOperator("DequantizeLinear", f"d{n}", (stored[n], step[n]), (real[n],)) for n in range(count)),
        *(FileOperator("Concat", f"c{n}", tuple(real), (joined[n],)) for n in range(count)),
        *(FileOperator("QuantizeLinear", f"z{n}", (joined[n], step[n]), (given[n],)) for n in range(count)),
    )
    arithmetic = POLICY.arithmetic(Counted("onnx", operators, tuple(stored), tuple(given)))
    assert not any(arithmetic.is_float(place) for place in range(len(operators)))
    assert len(asked) < 5 * count * count
