"""The options of the recipe `qat`, and how they become the pipeline's value."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from squeeze_export.cli.options import FILE, F, option
from squeeze_export.errors import BadInput
from squeeze_export.pipeline.training import QAT, Training


def training_options(function: F) -> F:
    """On what to train the integers, and how."""
    for add in reversed(
        (
            option("--train", type=FILE, metavar="DIR|CSV", help="Recipe qat: labelled images to train the integers on."),
            option("--train-epochs", type=int, metavar="N", help=f"Rounds over them, {Training.epochs} where not given."),
            option(
                "--train-reach",
                type=float,
                metavar="STEPS",
                help=f"How far all updates together move a weight, {Training.reach} integer steps where not given.",
            ),
            option("--train-flip", is_flag=True, help="Mirror every other one: only where left and right mean the same."),
        )
    ):
        function = add(function)
    return function


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
            raise BadInput(f"`--{typed[0].replace('_', '-')}` says how to train, and nothing says on what", hint="--train DIR")
        return None
    if not typed and values["recipe"] != QAT:
        return None
    set_by_user = {"epochs": values["train_epochs"], "reach": values["train_reach"]}
    given = {name: value for name, value in set_by_user.items() if value is not None}
    return Training(values["train"], flip=values["train_flip"], **given)
