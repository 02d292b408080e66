"""`squeeze-export tflite | onnx | openvino | coreml | all`: the main job."""

from __future__ import annotations

from typing import Any

import click

from squeeze_export.cli.console import note
from squeeze_export.cli.jobs import finish, job_from, run_shown
from squeeze_export.cli.options import Command
from squeeze_export.cli.options.calibration import CALIBRATION, EVALUATION, EXPECT_TOP1, TABLE
from squeeze_export.cli.options.form import APPLE_FORMS, INPUTS, form_options
from squeeze_export.cli.options.network import NETWORK
from squeeze_export.cli.options.output import OUT, OUTPUT
from squeeze_export.cli.options.quantization import (
    TRAINING,
    keep_float_option,
    recipe_options,
    scheme_choice,
    scheme_options,
    training_choice,
)
from squeeze_export.cli.options.running import NO_BENCH, NO_VALIDATE, RUNNING
from squeeze_export.graph.quantized import SCHEMES, scheme_named
from squeeze_export.pipeline.job import Job, run
from squeeze_export.pipeline.recipes import RECIPES, recipe_names
from squeeze_export.registry import TARGETS
from squeeze_export.targets import target_named


def command(name: str) -> click.Command:
    """The command of one target, or of `all` of them."""
    targets = tuple(target for target in TARGETS if target_named(target).RUNTIMES) if name == "all" else (name,)
    what = "every target" if name == "all" else name
    text = f"Export a SqueezeNet to {what}, compare it with the fp32 reference, and time it."

    def export(**values: Any) -> int:
        carried = {scheme for target in targets for scheme in target_named(target).SCHEMES}
        scheme = scheme_choice(values, carried)
        job = job_from(values, targets=_that_have(values["recipe"], targets), scheme=scheme, training=training_choice(values))
        report = run_shown(job, run)
        for target in ("coreml", "coreai"):
            if any(row.target == target and row.artifact for row in report.measurements):
                _tell_neural_engine(job, target)
        return finish(report, job, values, [row for row in report.measurements if row.scheme == job.scheme])

    return Command(name, callback=export, help=f"{text}\n\n{_EXAMPLE % name}", params=_options(targets))


def _that_have(recipe: str, targets: tuple[str, ...]) -> tuple[str, ...]:
    """The targets that a recipe is for, with a note about the others."""
    wanted = RECIPES[recipe].targets or targets
    left_out = [target for target in targets if target not in wanted]
    if left_out:
        note(f"left out: {', '.join(left_out)}, which the recipe `{recipe}` is not for")
    return tuple(target for target in targets if target in wanted)


def _tell_neural_engine(job: Job, target: str) -> None:
    """A note if Apple's Neural Engine, which computes in float16 alone, will not take the file of our own recipes."""
    scheme = scheme_named(job.scheme)
    format_name, chosen, instead, carried = {
        "coreml": ("Core ML", job.options.coreml_compute, "--coreml-compute float16", scheme.integer),
        "coreai": ("Core AI", job.options.coreai_compute, "--coreai-form qdq --coreai-compute float16", scheme.weight_bits > 0),
    }[target]
    dtype = chosen if carried else scheme.float_dtype
    if dtype == "float32" and RECIPES[job.recipe].maker != "vendor":
        way = instead if carried else "--fp16"
        note(f"the {format_name} file computes in float32, which Apple's Neural Engine does not take: {way} for it")


def _options(targets: tuple[str, ...]) -> list[click.Parameter]:
    """The options of a command; its help shows only the schemes, pixel types and form options of its targets."""
    modules = [target_named(name) for name in targets]
    schemes = [name for name in SCHEMES if any(name in module.SCHEMES for module in modules)]
    inputs = [name for name in INPUTS if any(name in module.INPUTS for module in modules)]
    form = (*form_options(inputs), *(own for name in targets for own in APPLE_FORMS.get(name, ())))
    recipes = recipe_options(recipe_names(targets=targets))
    most_used = (*NETWORK, *CALIBRATION, EVALUATION, EXPECT_TOP1)
    quantization = (*scheme_options(schemes), *recipes, keep_float_option(), *TRAINING)
    return [*most_used, *quantization, TABLE, *form, *RUNNING, NO_VALIDATE, NO_BENCH, OUT, *OUTPUT]


_EXAMPLE = "\b\nsqueeze-export %s --int8 --weights squeezenet1_1.pth --calib imgs/ --eval val/ --labels classes.txt"
