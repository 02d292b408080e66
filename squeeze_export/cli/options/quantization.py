"""How numbers are carried, and how the integers come about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from click.core import ParameterSource

from squeeze_export.cli.options import FILE, SOURCES, Choice, Option, Repeatable, option
from squeeze_export.errors import BadInput
from squeeze_export.graph.quantized import SCHEMES
from squeeze_export.pipeline.recipes import RECIPES
from squeeze_export.pipeline.training import Training

GROUP = "Quantization"

TRAINING = (
    option("--train", group=GROUP, type=FILE, metavar="DIR|CSV", help="Recipe qat: labelled images to train the integers on."),
    option(
        "--train-epochs",
        group=GROUP,
        type=int,
        metavar="N",
        help=f"Recipe qat: passes over these images, {Training.epochs} by default.",
    ),
    option(
        "--train-reach",
        group=GROUP,
        type=float,
        metavar="STEPS",
        help=f"Recipe qat: how far all updates together may move a weight, {Training.reach} integer steps by default.",
    ),
    option(
        "--train-flip",
        group=GROUP,
        is_flag=True,
        help="Recipe qat: mirror every other image. Use it only where left and right mean the same.",
    ),
)


def recipe_options(recipes: Sequence[str]) -> tuple[Option, ...]:
    """How the integers come about; `recipes` are those that the command can follow."""
    return (
        option(
            "--recipe",
            group=GROUP,
            type=click.Choice(recipes),
            default="fast",
            show_default=True,
            help="Method that chooses the integers.",
        ),
        option("--seed", group=GROUP, default=0, show_default=True, help="The same seed and images give the same integers."),
    )


def scheme_options(shown: Sequence[str]) -> tuple[Option, ...]:
    """How numbers are carried: three spellings of one option. The help shows the schemes of `shown`."""
    return (
        option(
            "--int8",
            group="Most used",
            is_flag=True,
            help="8-bit integer weights and activations. Only the average pool at the end stays in float.",
        ),
        option("--fp16", group=GROUP, is_flag=True, help="Half-precision weights."),
        option(
            "--scheme",
            group=GROUP,
            type=Choice(list(SCHEMES), shown),
            help="How numbers are stored and computed.  [default: fp32]",
        ),
    )


def scheme_choice(values: dict[str, Any]) -> str:
    """The one scheme that --int8, --fp16 and --scheme together name; fp32 where none does.

    On the command line any of them beats any in the environment, and so on.

    Raises:
        BadInput: they contradict each other.
    """
    ctx = click.get_current_context()
    spelt = {"int8": "int8", "fp16": "fp16", "scheme": values["scheme"]}
    for source in SOURCES:
        asked = {spelt[name] for name in spelt if values[name] and ctx.get_parameter_source(name) is source}
        if len(asked) > 1:
            raise BadInput(f"one scheme at a time, not `{'` and `'.join(sorted(asked))}`", hint=f"one of: {', '.join(SCHEMES)}")
        if asked:
            return str(asked.pop())
    return "fp32"


def keep_float_option(text: str = "Keep this layer in float. Repeat it for more; `analyze` tells which to choose.") -> Option:
    """`--keep-float LAYER`, which may be given again."""
    return option("--keep-float", group=GROUP, cls=Repeatable, multiple=True, metavar="LAYER", help=text)


def keep_float_choice(values: dict[str, Any]) -> tuple[tuple[str, ...] | int, float | None]:
    """The layers by name or number, and the bound: what `--keep-float` and `--max-drop` of `analyze` say.

    The one from the command line leaves the other one of the environment or the settings file behind, and so on.

    Raises:
        BadInput: a number beside names, or several numbers.
    """
    named, max_drop = values["keep_float"], values["max_drop"]
    if named and max_drop is not None:
        ctx = click.get_current_context()
        ranks = [SOURCES.index(ctx.get_parameter_source(name)) for name in ("keep_float", "max_drop")]
        if ranks[0] < ranks[1]:
            max_drop = None
        elif ranks[1] < ranks[0]:
            named = ()
    if not any(name.isdecimal() for name in named):
        return named, max_drop
    if len(named) > 1:
        raise BadInput(f"`{'` and `'.join(named)}`: --keep-float takes names of layers, or one number", hint="leave out the number")
    return int(named[0]), max_drop


def training_choice(values: dict[str, Any]) -> Training | None:
    """Takes the training options out of a command's values; those of the settings file and the environment are of `qat` alone.

    Raises:
        BadInput: how to train was typed, and not on what.
    """
    ctx = click.get_current_context()
    names = ("train", "train_epochs", "train_reach", "train_flip")
    typed = [name for name in names if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if values["train"] is None:
        if typed:
            raise BadInput(
                f"`--{typed[0].replace('_', '-')}` says how to train, but no images are given to train on", hint="--train DIR"
            )
        return None
    if not typed and RECIPES[values["recipe"]].maker != "trained":
        return None
    set_by_user = {"epochs": values["train_epochs"], "reach": values["train_reach"]}
    given = {name: value for name, value in set_by_user.items() if value is not None}
    return Training(values["train"], flip=values["train_flip"], **given)
