"""The options that commands share, and how they become the pipeline's values."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from click.core import ParameterSource

from squeeze_export.cli.console import note
from squeeze_export.cli.values import Cpus, Triple
from squeeze_export.core import EmitOptions, Progress, silent
from squeeze_export.errors import BadInput
from squeeze_export.graph.quantized import SCHEMES
from squeeze_export.pipeline.calibration_images import MAX_WEIGHT, CalibrationFolder, CalibrationSource
from squeeze_export.pipeline.network import Network, PreprocessChoice, open_network
from squeeze_export.pipeline.sessions import RunOptions

F = TypeVar("F", bound=Callable[..., Any])


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """A click option that can also be set as SQUEEZE_EXPORT_<LONG NAME>."""
    long = next(name for name in names if name.startswith("--")).split("/")[0]
    variable = "SQUEEZE_EXPORT_" + long.removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=variable, **settings)


class Batch(click.ParamType[int | Literal["dynamic"]]):
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


FILE = click.Path(path_type=Path)


class Folders(click.Path):
    """Folders. In the environment several are apart as in PATH, unless the whole text is one that exists."""

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        """Takes the text of the environment apart."""
        return [rv] if os.path.exists(rv) else rv.split(os.pathsep)


class Repeatable(click.Option):
    """An option that may be given again; in the settings file a single value needs no list."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Reads the values."""
        return super().type_cast_value(ctx, [value] if isinstance(value, str | int) else value)


def _keep_weights(ctx: click.Context, param: click.Parameter, value: tuple[int, ...]) -> None:
    ctx.meta[_WEIGHTS] = value


def _calibration_source(ctx: click.Context, param: click.Parameter, paths: tuple[Path, ...]) -> CalibrationSource | None:
    """One folder as a path, several as folders with their weights.

    Weights belong to the folders that they were given with: folders of the command line leave those of the settings file behind.
    """
    weights: tuple[int, ...] = ctx.meta.get(_WEIGHTS, ())
    sources = [ctx.get_parameter_source(name) for name in ("calib", "calib_weight")]
    ranks = [SOURCES.index(source) if source in SOURCES else len(SOURCES) for source in sources]
    if ranks[0] < ranks[1]:
        weights = ()
    if weights and len(weights) != len(paths):
        raise BadInput(
            f"`{len(weights)}` of --calib-weight for `{len(paths)}` of --calib", hint="one weight for each folder, in their order"
        )
    if len(paths) < 2:
        return paths[0] if paths else None
    return tuple(CalibrationFolder(path, weight) for path, weight in zip(paths, weights or (1,) * len(paths), strict=True))


_WEIGHTS = "squeeze_export.calib_weight"
SOURCES = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT, ParameterSource.DEFAULT_MAP)
"""Where an option may be set: the first beats the others."""


def network_options(function: F) -> F:
    """Which network, and what is set of its preprocessing."""
    for add in reversed(
        (
            option(
                "--weights", metavar="FILE|NAME", help="Checkpoint (.pth .safetensors .onnx .net) or squeezenet1_0, squeezenet1_1."
            ),
            option("--labels", type=FILE, metavar="FILE", help="One class name or wnid a line, in index order."),
            option("--bypass", type=click.Choice(["simple", "complex"]), help="For simple bypass, which no tensor shows."),
            option("--mean", type=Triple(), help="Per channel, pixels 0 to 255, in the network's channel order."),
            option("--std", type=Triple(), help="Per channel, pixels 0 to 255."),
            option("--channel-order", type=click.Choice(["rgb", "bgr"]), help="The order that the network was trained on."),
            option("--resize", type=int, metavar="PX", help="Short side after resizing."),
            option("--crop", type=int, metavar="PX", help="Side of the centre crop: the input size."),
            option("--interpolation", type=click.Choice(["nearest", "bilinear", "bicubic", "lanczos"]), help="Resampling filter."),
        )
    ):
        function = add(function)
    return function


def calibration_options(recipes: Sequence[str]) -> Callable[[F], F]:
    """How the integers come about; `recipes` are those that the command can follow."""

    def decorate(function: F) -> F:
        for add in reversed(
            (
                option(
                    "--calib",
                    type=Folders(path_type=Path),
                    cls=Repeatable,
                    multiple=True,
                    callback=_calibration_source,
                    metavar="DIR",
                    help="Calibration images: a few hundred, unlabelled. Give it again for more folders.",
                ),
                option(
                    "--calib-weight",
                    type=click.IntRange(1, MAX_WEIGHT),
                    cls=Repeatable,
                    multiple=True,
                    is_eager=True,  # read before --calib, which takes it up
                    expose_value=False,
                    callback=_keep_weights,
                    metavar="N",
                    help="How often each image of a folder counts; one for each --calib, in their order.",
                ),
                option("--recipe", type=click.Choice(recipes), default="fast", show_default=True, help="How to quantize."),
                option("--seed", default=0, show_default=True, help="The same seed and images give the same integers."),
                option("--skip-broken", is_flag=True, help="Leave out images that cannot be read."),
            )
        ):
            function = add(function)
        return function

    return decorate


def coreml_options(function: F) -> F:
    """What Core ML alone asks about a file's outer form."""
    for add in reversed(
        (
            option("--ios", type=click.IntRange(17, 18), default=17, show_default=True, help="Core ML: the oldest iOS to run on."),
            option(
                "--coreml-compute",
                type=click.Choice(["float32", "float16"]),
                default=EmitOptions.coreml_compute,
                show_default=True,
                help="Core ML, int8: what is computed in between the integers.",
            ),
        )
    ):
        function = add(function)
    return function


def run_options(function: F) -> F:
    """How artifacts are run."""
    for add in reversed(
        (
            option("--runtime", metavar="NAME", help="Another runtime than the target's first; see the guide of the target."),
            option("--device", default="cpu", show_default=True, metavar="NAME", help="Where to run: this device or none."),
            option("--threads", default=1, show_default=True, help="Threads of every session."),
            option("--cpus", type=Cpus(), help="Pin to these logical CPUs."),
            option("--rounds", default=50, show_default=True, help="Timed inferences of each file."),
            option("--emulated-images", default=100, show_default=True, metavar="N", help="Images for an emulated device."),
            option("--on", metavar="URL", help="Run on a board: ssh://user@host[:port], or adb://SERIAL with --benchmark-binary."),
            option("--benchmark-binary", type=FILE, metavar="FILE", help="Android: LiteRT's benchmark_model for the device."),
            option("--ssh-config", type=FILE, metavar="FILE", help="An OpenSSH configuration instead of your own."),
            option("--board-python", default="python3", show_default=True, metavar="NAME", help="The board's Python."),
            option("--require-full-placement", is_flag=True, help="Exit code 5 where an operator falls back."),
        )
    ):
        function = add(function)
    return function


def _show_warnings(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        warnings.simplefilter("default")  # until `cli.run`, which ignores them otherwise, puts the old filters back


def output_options(function: F) -> F:
    """What is printed."""
    for add in reversed(
        (
            option("--json", "as_json", is_flag=True, help="The result as JSON on stdout."),
            option(
                "-v",
                "--verbose",
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_show_warnings,
                help="Also show third parties' warnings.",
            ),
        )
    ):
        function = add(function)
    return function


DEMO_NOTE = "no --weights: this is the embedded demo network, 24 drawn classes at 96 px"


def chosen_network(values: dict[str, Any], progress: Progress = silent) -> Network:
    """Opens the network that a command's values name; stderr says so where none is named."""
    if values["weights"] is None:
        note(DEMO_NOTE)
    return open_network(
        values["weights"],
        preprocess=preprocess_choice(values),
        labels=values["labels"],
        bypass=values["bypass"],
        progress=progress,
    )


def preprocess_choice(values: dict[str, Any]) -> PreprocessChoice:
    """Takes the preprocessing options out of a command's values."""
    return PreprocessChoice(
        resize_px=values["resize"],
        crop_px=values["crop"],
        interpolation=values["interpolation"],
        channel_order=values["channel_order"],
        mean=values["mean"],
        std=values["std"],
    )


def run_choice(values: dict[str, Any]) -> RunOptions:
    """Takes the run options out of a command's values."""
    names = ("runtime", "device", "threads", "cpus", "rounds", "emulated_images", "on", "benchmark_binary", "ssh_config")
    return RunOptions(**{name: values[name] for name in (*names, "board_python")})


def emit_choice(values: dict[str, Any]) -> EmitOptions:
    """Takes the options of the outer form out of a command's values."""
    coreml = {name: values[name] for name in ("ios", "coreml_compute") if name in values}
    return EmitOptions(values["batch"], values["input"], values["softmax"], **coreml)


def scheme_choice(values: dict[str, Any]) -> str:
    """The one scheme that --int8, --fp16 and --scheme together name; fp32 where none does.

    They are three spellings of one option: on the command line any of them beats any in the environment, and so on.

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
