"""The form of a file: batch, pixels, output, and Core ML's and Core AI's own. Options are named after fields of `EmitOptions`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import click

from squeeze_export.cli.options import Choice, Option, option
from squeeze_export.core import EmitOptions

INPUTS = ("uint8", "float32", "int8")

_option = partial(option, group="File")


class BatchSize(click.ParamType[int | Literal["dynamic"]]):
    """A batch size or `dynamic`."""

    name = "N|dynamic"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | Literal["dynamic"]:
        """Reads the text."""
        if value == "dynamic":
            return "dynamic"
        try:
            count = int(value)
        except (TypeError, ValueError):
            self.fail(f"`{value}` is neither a number nor `dynamic`", param, ctx)
        if not 1 <= count <= 1024:
            self.fail(f"`{value}` is outside 1 to 1024", param, ctx)
        return count


def form_options(inputs: Sequence[str]) -> tuple[Option, ...]:
    """The options of every format. The help shows the pixel types of `inputs`."""
    pixels = "Type of the raw pixels, 0 to 255."
    text = f"{pixels} As int8 they are 128 lower; TFLite only." if "int8" in inputs else pixels
    return (
        _option("--batch", type=BatchSize(), default="1", metavar="N|dynamic", help="Images per inference."),
        _option("--input", "input_dtype", type=Choice(INPUTS, inputs), default="uint8", help=text),
        _option("--softmax", is_flag=True, help="Output probabilities instead of logits."),
        _option("--sigmoid", is_flag=True, help="Output a probability for each class by itself."),
    )


COREML_FORM = (
    _option("--ios", type=click.IntRange(17, 18), default=17, help="Core ML: the oldest iOS that the file must run on."),
    _option(
        "--coreml-compute",
        type=Choice(["float32", "float16"]),
        default=EmitOptions.coreml_compute,
        help="Core ML, int8: type of the numbers between the integers.",
    ),
)
COREAI_FORM = (
    _option(
        "--coreai-form",
        type=Choice(["exact", "qdq"]),
        default=EmitOptions.coreai_form,
        help="Core AI, int8: sums of integers that are exact, or the usual pairs of quantize and dequantize.",
    ),
    _option(
        "--coreai-compute",
        type=Choice(["float32", "float16"]),
        default=EmitOptions.coreai_compute,
        help="Core AI, int8 and w8: type of the numbers between the integers; float16 needs the form qdq.",
    ),
)
APPLE_FORMS: Mapping[str, tuple[Option, ...]] = {"coreml": COREML_FORM, "coreai": COREAI_FORM}
"""Target -> the options that only it has."""
