"""Each rule, kept and broken, on operators written by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from squeeze_export.errors import BadInput
from squeeze_export.formats.contents import FREE, Contents, FileOperator, FileTensor
from squeeze_export.lint import Finding, lint, rulebook_named
from squeeze_export.registry import RULEBOOKS

PIXELS = FileTensor("x", "int8", (1, 8, 8, 4), scales=(0.5,), zero_points=(-128,))
RESULT = replace(PIXELS, name="y")
WEIGHT = FileTensor("w", "int8", (4, 3, 3, 4), True, (0.25, 0.5, 1.0, 2.0), (0, 0, 0, 0))
BIAS = FileTensor("b", "int32", (4,), True, (0.125, 0.25, 0.5, 1.0), (0, 0, 0, 0))
AXES = FileTensor("axes", "int32", (2,), True, values=(1, 2))
STEPS = {
    "strideH": 1,
    "strideW": 1,
    "dilationHFactor": 1,
    "dilationWFactor": 1,
    "padding": "VALID",
    "fusedActivationFunction": "RELU",
}
CONV = FileOperator("CONV_2D", "y", (PIXELS, WEIGHT, BIAS), (RESULT,), STEPS)
POOL = FileOperator("MAX_POOL_2D", "y", (PIXELS,), (RESULT,), {"filterHeight": 3, "filterWidth": 3, "strideH": 2, "strideW": 2})
JOIN = FileOperator("CONCATENATION", "y", (PIXELS, RESULT), (replace(PIXELS, name="z"),), {"fusedActivationFunction": "NONE"})
MEAN = FileOperator("MEAN", "y", (PIXELS, AXES), (replace(PIXELS, name="y", shape=(1, 4), scales=(0.1,)),))
QUANTIZE = FileOperator("QUANTIZE", "y", (replace(PIXELS, scales=(0.25,)),), (RESULT,))
SOUND = (CONV, POOL, JOIN, MEAN, QUANTIZE)
FLOAT = FileTensor("f", "float32", (1, 8, 8, 4))
SOFTMAX = FileOperator("SOFTMAX", "y", (replace(FLOAT, name="x"),), (FLOAT,))

CARRIED = FileTensor("x", "uint8", (1, 4, 8, 8), scales=(0.5,), zero_points=(0,))
QDQ = FileOperator("Conv", "y", (CARRIED, replace(WEIGHT, shape=(4, 4, 3, 3)), BIAS), (replace(CARRIED, name="y"),))

HALF = FileOperator("relu", "y", (FileTensor("x", "float16", (1, 4, 8, 32)),), (FileTensor("y", "float16", (1, 4, 8, 32)),))


def found(chip: str, *operators: FileOperator) -> tuple[Finding, ...]:
    book = rulebook_named(chip)
    return lint(Contents(book.targets[0], operators, (), ()), book)


def given(operator: FileOperator, **changes: object) -> FileOperator:
    """With another first input."""
    return replace(operator, inputs=(replace(operator.inputs[0], **changes), *operator.inputs[1:]))


def made(operator: FileOperator, **changes: object) -> FileOperator:
    """With another result."""
    return replace(operator, outputs=(replace(operator.outputs[0], **changes),))


def weighted(**changes: object) -> FileOperator:
    return replace(CONV, inputs=(PIXELS, replace(WEIGHT, **changes), BIAS))


def biased(**changes: object) -> FileOperator:
    return replace(CONV, inputs=(PIXELS, WEIGHT, replace(BIAS, **changes)))


def told(operator: FileOperator, **attributes: object) -> FileOperator:
    return replace(operator, attributes={**operator.attributes, **attributes})


def averaged(**changes: object) -> FileOperator:
    return replace(MEAN, inputs=(MEAN.inputs[0], replace(AXES, **changes)))


@pytest.mark.parametrize("chip", ["ethosu", "xnnpack", "edgetpu"])
def test_sound_operators_break_no_rule(chip: str) -> None:
    assert found(chip, *SOUND) == ()


UNSIGNED = replace(
    CONV,
    inputs=(
        replace(PIXELS, dtype="uint8", zero_points=(3,)),
        replace(WEIGHT, dtype="uint8", scales=(0.25,), zero_points=(120,)),
        BIAS,
    ),
    outputs=(replace(RESULT, dtype="uint8", zero_points=(0,)),),
)


@pytest.mark.parametrize("chip", ["ethosu", "xnnpack", "edgetpu"])
def test_what_older_tools_quantized_to_uint8_is_sound(chip: str) -> None:
    """With weights around a zero point; Vela and XNNPACK take it."""
    bias = replace(BIAS, scales=(0.125,), zero_points=(0,))
    assert found(chip, replace(UNSIGNED, inputs=(*UNSIGNED.inputs[:2], bias))) == ()


@pytest.mark.parametrize("chip", ["ethosu", "xnnpack", "edgetpu"])
def test_axes_may_be_counted_from_the_end(chip: str) -> None:
    assert found(chip, averaged(values=(-3, -2))) == ()


def test_a_sound_qdq_convolution_breaks_no_rule() -> None:
    assert found("hexagon", QDQ) == ()


SHARED = [
    (weighted(dtype="uint8"), "its weights `w` are uint8"),
    (weighted(constant=False), "its weights `w` are computed"),
    (weighted(zero_points=(0, 0, 3, 0)), "the zero point of its weights `w` is not 0"),
    (biased(dtype="int8"), "its bias `b` is int8"),
    (biased(constant=False), "its bias `b` is computed int32"),
    (biased(scales=(0.125, 0.25, 0.6, 1.0)), "the scale of its bias `b` is not the product"),
    (replace(CONV, inputs=(PIXELS,)), "it has no weights"),
]
BROKEN = {
    "ethosu": [
        *SHARED,
        (replace(QUANTIZE, kind="DEQUANTIZE"), "Ethos-U has no DEQUANTIZE"),
        (given(CONV, dtype="float32"), "`x` is float32"),
        (given(POOL, shape=(1, FREE, 8, 4)), "`x` has no fixed shape: int8[1,N,8,4]"),
        (given(POOL, scales=()), "`x` has no positive scale"),
        (given(POOL, scales=(0.0,)), "`x` has no positive scale"),
        (given(POOL, scales=(0.5, 0.5), zero_points=(0, 0)), "`x` has 2 scales"),
        (given(POOL, dtype="int32", zero_points=(0,)), "`x` is int32"),
        (given(POOL, dtype="uint8", zero_points=(-1,)), "the zero point of `x` is -1"),
        (told(CONV, strideH=4, padding="SAME"), "its stride is 4"),
        (told(CONV, strideW=4, dilationHFactor=2), "its stride is 4"),
        (told(POOL, filterHeight=257), "its window is 257 x 3"),
        (told(replace(POOL, kind="AVERAGE_POOL_2D"), filterWidth=9, padding="SAME"), "its window is 3 x 9"),
        (given(MEAN, shape=(2, 8, 8, 4)), "its batch is 2"),
        (given(MEAN, shape=(1, 5000, 8, 4)), "it averages 5000 x 8 elements"),
        (averaged(constant=False), "its axes are computed"),
        (averaged(values=(1, 3)), "it averages over the channels"),
        (averaged(values=(-9, 2)), "its axes [-9, 2] are none of its input's"),
        (replace(JOIN, kind="ADD", inputs=(replace(PIXELS, dtype="int64"), RESULT)), "`x` is int64"),
        (replace(MEAN, inputs=(replace(PIXELS, dtype="int16", shape=(1, 300, 300, 4)), AXES)), "elements of int16"),
    ],
    "xnnpack": [
        *SHARED,
        (replace(POOL, kind="HARD_SWISH"), "XNNPACK has no quantized HARD_SWISH"),
        (given(CONV, dtype="float32", scales=()), "it computes in floats: `x` is float32"),
        (given(CONV, dtype="int16"), "`x` is int16"),
        (given(JOIN, scales=()), "`x` has no positive scale"),
        (replace(CONV, inputs=(PIXELS, WEIGHT)), "it has no bias"),
        (replace(given(QUANTIZE, dtype="int16"), kind="DEQUANTIZE"), "it reads int16"),
        (told(CONV, fusedActivationFunction="TANH"), "TANH is fused into it"),
        (replace(JOIN, inputs=(PIXELS,) * 5), "it joins 5 operands"),
        (told(POOL, filterHeight=1, filterWidth=1), "it is a 1 x 1 pool with a stride"),
        (averaged(values=(1, 3)), "it is a mean over the axes [1, 3]"),
        (made(JOIN, scales=(0.75,)), "it reads and makes 2 scales"),
        (made(POOL, zero_points=(0,)), "it reads and makes 2 scales"),
    ],
    "edgetpu": [
        *SHARED,
        (replace(QUANTIZE, kind="DEQUANTIZE"), "the Edge TPU has no DEQUANTIZE"),
        (given(CONV, dtype="int16"), "`x` is int16"),
        (given(CONV, shape=(FREE, 8, 8, 4)), "`x` has no fixed shape: int8[N,8,8,4]"),
        (given(CONV, shape=(2, 8, 8, 4)), "only its three innermost sides may be above 1"),
        (given(QUANTIZE, scales=()), "`x` has no positive scale"),
        (told(CONV, dilationHFactor=2), "it is dilated by 2 and 1"),
        (told(JOIN, fusedActivationFunction="RELU"), "RELU is fused into it"),
        (replace(JOIN, inputs=(PIXELS, RESULT, replace(PIXELS, constant=True))), "it joins a constant and 2 operands"),
        (averaged(values=(0, 1)), "it averages over the batch"),
        (replace(MEAN, inputs=(replace(PIXELS, shape=(1, 8, 8, 3)), replace(AXES, values=(3,)))), "it averages over 3 channels"),
        (made(JOIN, scales=(0.75,)), "it reads and makes 2 scales"),
    ],
    "hexagon": [
        (replace(QDQ, kind="Loop"), "the QNN execution provider has no Loop"),
        (replace(QDQ, kind="made.up:Conv"), "the QNN execution provider has no made.up:Conv"),
        (given(QDQ, shape=(FREE, 4, 8, 8)), "`x` has no fixed shape"),
        (given(QDQ, dtype="float32", scales=()), "it computes in floats: `x` is float32"),
        (made(QDQ, dtype="float32", scales=()), "it computes in floats: `y` is float32"),
        (given(QDQ, dtype="int8"), "`x` is carried in int8"),
        (replace(QDQ, inputs=(CARRIED, replace(WEIGHT, zero_points=(0, 1, 0, 0)), BIAS)), "the zero points of its weights `w`"),
        (replace(QDQ, inputs=(CARRIED, replace(WEIGHT, scales=()), BIAS)), "its weights `w` are no quantized constant"),
        (replace(QDQ, inputs=(CARRIED, WEIGHT, replace(BIAS, dtype="float32"))), "its bias `b` is float32"),
    ],
    "coreai-ane": [
        (given(HALF, shape=(FREE, 4, 8, 32)), "`x` has no fixed shape: float16[N,4,8,32]"),
        (given(HALF, shape=(1, 1, 1, 4, 8, 32)), "`x` has 6 sides"),
        (given(HALF, dtype="float32"), "`x` is float32"),
        (made(HALF, dtype="float32"), "`y` is float32"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("chip", "operator", "problem"), [(chip, *case) for chip, cases in BROKEN.items() for case in cases], ids=lambda v: str(v)[:60]
)
def test_a_broken_rule_is_named_with_what_to_change(chip: str, operator: FileOperator, problem: str) -> None:
    (finding,) = found(chip, operator)
    assert problem in finding.problem
    assert (finding.severity, finding.operator) == ("fall-back", f"{operator.kind} y")
    assert finding.change
    assert "http" in finding.source or "README" in finding.source or "SUPPORTED_OPS" in finding.source


@pytest.mark.parametrize(
    ("chip", "operator", "problem"),
    [
        ("xnnpack", given(QUANTIZE, dtype="uint8"), "it turns uint8 into int8; XNNPACK wants the same signedness"),
        ("xnnpack", given(QUANTIZE, scales=(512.0,)), "its scales are 1.02e+03 apart"),
        ("ethosu", made(JOIN, scales=(0.75,)), "it reads and makes 2 scales"),
        ("hexagon", replace(QDQ, kind="GlobalAveragePool", outputs=(FLOAT,)), "it computes in floats: `f` is float32"),
    ],
    ids=str,
)
def test_what_costs_little_is_a_note(chip: str, operator: FileOperator, problem: str) -> None:
    (finding,) = found(chip, operator)
    assert (finding.severity, finding.problem) == ("note", problem)


SCALES = FileTensor("s", "float16", (4, 1, 1, 1), True)
BLOCKS = (replace(WEIGHT, shape=(4, 8, 1, 1)), replace(SCALES, shape=(4, 2, 1, 1)))


@pytest.mark.parametrize(
    ("operator", "severity", "problem", "source"),
    [
        (replace(HALF, kind="mul", inputs=HALF.inputs * 2), "note", "it multiplies two results", "112"),
        (replace(HALF, kind="blockwise_shift_scale", inputs=BLOCKS), "wrong", "its weights have 2 scales for each", "279"),
        (replace(HALF, kind="argmax"), "wrong", "it came out wrong at the end of a network", "116"),
        (replace(HALF, kind="gather_nd"), "note", "in float16 one network that ends in it came out wrong", "115"),
    ],
    ids=("multiplication", "blocks", "argmax", "gather"),
)
def test_what_was_seen_to_be_wrong_on_the_neural_engine(operator: FileOperator, severity: str, problem: str, source: str) -> None:
    (finding,) = found("coreai-ane", operator)
    assert problem in finding.problem
    assert finding.severity == severity
    assert source in finding.source


def test_what_the_neural_engine_takes() -> None:
    unpacked = replace(HALF, kind="blockwise_shift_scale", inputs=(replace(WEIGHT, shape=(4, 32, 1, 1)), SCALES))
    scaled = replace(HALF, kind="broadcasting_mul", inputs=(*HALF.inputs, SCALES))
    assert found("coreai-ane", HALF, unpacked, scaled) == ()
    finding, cast = found(
        "coreai-ane", made(replace(HALF, kind="conv2d"), shape=(1, 4, 8, 13)), made(replace(HALF, kind="cast"), dtype="float32")
    )
    assert (finding.severity, finding.problem) == ("note", "the last side of `y` takes 26 bytes, which is padded to 64")
    assert (cast.severity, cast.problem) == ("note", "it casts to or from float32 outside the engine")


def test_one_reason_an_operator() -> None:
    both = weighted(dtype="uint8", constant=False)
    assert len(found("ethosu", both, SOFTMAX, CONV)) == 2


def test_rules_of_another_format_and_of_no_chip() -> None:
    with pytest.raises(BadInput, match="the rules of Qualcomm Hexagon are about onnx files"):
        lint(Contents("tflite", (CONV,), (), ()), rulebook_named("hexagon"))
    with pytest.raises(BadInput, match="no rulebook is called `kirin`"):
        rulebook_named("kirin")


def test_the_folder_equals_the_registry() -> None:
    import squeeze_export.lint as room

    modules = {path.stem for path in Path(room.__file__).parent.glob("[!_]*.py")} - {"rules"}  # what the chips share
    assert set(RULEBOOKS.values()) == {f"squeeze_export.lint.{module}:RULEBOOK" for module in modules}
