"""How files are run: runtime, device, threads, boards."""

from __future__ import annotations

from typing import Any

import click

from squeeze_export.cli.options import FILE, Option, option
from squeeze_export.pipeline.sessions import RunOptions

GROUP = "Running"


class Cpus(click.ParamType[tuple[int, ...]]):
    """Logical CPUs: `0` or `0,2`."""

    name = "N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Reads the text, or a list from the settings file."""
        try:
            return tuple(int(part) for part in (value.split(",") if isinstance(value, str) else value))
        except (TypeError, ValueError):
            self.fail(f"`{value}` is not a list of CPU numbers", param, ctx)


def device_option(default: str, text: str) -> Option:
    """`--device NAME`."""
    return option("--device", group=GROUP, default=default, show_default=True, metavar="NAME", help=text)


THREADS = option("--threads", group=GROUP, default=RunOptions.threads, show_default=True, help="Threads of each session.")
ROUNDS = option("--rounds", group=GROUP, default=RunOptions.rounds, show_default=True, help="Timed inferences of each file.")
EMULATED_IMAGES = option(
    "--emulated-images",
    group=GROUP,
    default=RunOptions.emulated_images,
    show_default=True,
    metavar="N",
    help="Images to run on an emulated device.",
)
FULL_PLACEMENT = option(
    "--require-full-placement",
    group=GROUP,
    is_flag=True,
    help="Exit code 5 if an operator falls back, that is, runs elsewhere than asked.",
)
NO_VALIDATE = option("--no-validate", group=GROUP, is_flag=True, help="Do not compare with the fp32 reference.")
NO_BENCH = option("--no-bench", group=GROUP, is_flag=True, help="Do not time.")

RUNNING = (
    option(
        "--runtime",
        group=GROUP,
        metavar="NAME",
        help="Runtime to use instead of the target's default; the target's guide lists them.",
    ),
    device_option(RunOptions.device, "Device to run on. No other one is used in its place."),
    THREADS,
    option("--cpus", group=GROUP, type=Cpus(), help="Pin the process to these logical CPUs."),
    ROUNDS,
    EMULATED_IMAGES,
    option(
        "--on",
        group=GROUP,
        metavar="URL",
        help="Run on a board: ssh://user@host[:port], or adb://SERIAL with --benchmark-binary.",
    ),
    option(
        "--benchmark-binary",
        group=GROUP,
        type=FILE,
        metavar="FILE",
        help="Android: LiteRT's benchmark_model, built for the device.",
    ),
    option("--ssh-config", group=GROUP, type=FILE, metavar="FILE", help="OpenSSH configuration to use instead of your own."),
    option(
        "--board-python",
        group=GROUP,
        default=RunOptions.board_python,
        show_default=True,
        metavar="NAME",
        help="The Python to start on the board.",
    ),
    FULL_PLACEMENT,
)


def run_choice(values: dict[str, Any]) -> RunOptions:
    """Takes the run options out of a command's values."""
    names = ("runtime", "device", "threads", "cpus", "rounds", "emulated_images", "on", "benchmark_binary", "ssh_config")
    return RunOptions(**{name: values[name] for name in (*names, "board_python")})
