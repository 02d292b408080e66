"""How numbers are stored and computed, and how the integers are chosen."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from click.core import ParameterSource

from squeeze_export.cli.console import note
from squeeze_export.cli.options import FILE, Choice, Option, Repeatable, option, source_of
from squeeze_export.cli.options.completion import LayerName
from squeeze_export.errors import BadInput
from squeeze_export.graph.quantized import FP32, INT8, SCHEMES
from squeeze_export.pipeline.recipes import RECIPES
from squeeze_export.pipeline.training import Training

_option = partial(option, group="Quantization")

DEFAULT_RECIPE = "fast"

TRAINING = (
    _option("--train", type=FILE, metavar="DIR|CSV|TXT", help="Recipe qat: labelled images to train the integers on."),
    _option("--train-epochs", default=Training.epochs, metavar="N", help="Recipe qat: passes over these images."),
    _option(
        "--train-reach",
        default=Training.reach,
        metavar="STEPS",
        help="Recipe qat: how many integer steps all updates together may move a weight.",
    ),
    _option(
        "--train-flip",
        is_flag=True,
        help="Recipe qat: mirror every other image. Use it only where left and right mean the same.",
    ),
)


def recipe_options(recipes: Sequence[str]) -> tuple[Option, ...]:
    """How the integers are chosen; `recipes` are those that the command supports."""
    return (
        _option("--recipe", type=Choice(recipes), default=DEFAULT_RECIPE, help="Method that chooses the integers."),
        _option("--seed", default=0, help="The same seed and images give the same integers."),
    )


def scheme_options(shown: Sequence[str]) -> tuple[Option, ...]:
    """How numbers are stored and computed: three spellings of one option. The help shows the schemes of `shown`."""
    return (
        option(
            "--int8",
            group="Most used",
            is_flag=True,
            help="8-bit integer weights and activations. Only the average pool at the end stays in float.",
        ),
        _option("--fp16", is_flag=True, help="Half-precision weights."),
        _option(
            "--scheme",
            type=Choice(list(SCHEMES), shown),
            help="How numbers are stored and computed.  [default: int8 with --calib or --table, else fp32]",
        ),
    )


def scheme_choice(values: dict[str, Any], carried: Collection[str] = tuple(SCHEMES)) -> str:
    """The scheme that --int8, --fp16 or --scheme names. If none is given: int8 where another option asks for integers, which a note
    on stderr says; else fp32.

    Any of them on the command line overrides all in the environment, and these override the settings file.

    Args:
        values: of the command's options.
        carried: the schemes that the command's targets carry.

    Raises:
        BadInput: they contradict each other.
    """
    asked = {name: scheme for name, scheme in (("int8", "int8"), ("fp16", "fp16"), ("scheme", values["scheme"])) if values[name]}
    strongest = min(map(source_of, asked), default=None)
    schemes = sorted({scheme for name, scheme in asked.items() if source_of(name) is strongest})
    if len(schemes) > 1:
        raise BadInput(f"one scheme at a time, not `{'` and `'.join(schemes)}`", hint=f"one of: {', '.join(SCHEMES)}")
    if schemes:
        return schemes[0]
    if INT8.name not in carried:
        return FP32.name
    asks = {"calib": values["calib"], "table": values["table"], "keep-float": values["keep_float"]}
    asks["recipe"] = values["recipe"] != DEFAULT_RECIPE
    option_name = next((name for name, given in asks.items() if given), None)
    if option_name is None:
        return FP32.name
    note(f"--{option_name} without a scheme means --int8; --scheme {FP32.name} keeps the network in float")
    return INT8.name


def keep_float_option(text: str = "Keep this layer in float. Repeat it for more; `analyze` tells which to choose.") -> Option:
    """`--keep-float LAYER`, which may be repeated."""
    return _option("--keep-float", type=LayerName(), cls=Repeatable, multiple=True, metavar="LAYER", help=text)


def keep_float_choice(values: dict[str, Any]) -> tuple[tuple[str, ...] | int, float | None]:
    """The values of `--keep-float`, names or a number, and of `--max-drop`.

    If one of them is on the command line, the other one is ignored in the environment and the settings file, and so on.

    Raises:
        BadInput: a number beside names, or several numbers.
    """
    named, max_drop = values["keep_float"], values["max_drop"]
    if named and max_drop is not None:
        if source_of("keep_float") < source_of("max_drop"):
            max_drop = None
        elif source_of("max_drop") < source_of("keep_float"):
            named = ()
    if not any(name.isdecimal() for name in named):
        return named, max_drop
    if len(named) > 1:
        raise BadInput(f"`{'` and `'.join(named)}`: --keep-float takes names of layers, or one number", hint="leave out the number")
    return int(named[0]), max_drop


def training_choice(values: dict[str, Any]) -> Training | None:
    """The training that a command's values name. In the environment and the settings file it counts only for the recipe `qat`.

    Raises:
        BadInput: another training option was typed without `--train`.
    """
    names = ("train", "train_epochs", "train_reach", "train_flip")
    typed = [name for name in names if source_of(name) is ParameterSource.COMMANDLINE]
    if values["train"] is None:
        if typed:
            raise BadInput(
                f"`--{typed[0].replace('_', '-')}` says how to train, but no images are given to train on", hint="--train DIR"
            )
        return None
    if not typed and RECIPES[values["recipe"]].maker != "trained":
        return None
    return Training(*(values[name] for name in names))
