"""How to run files: runtime, device, threads, boards."""

from __future__ import annotations

from functools import partial

from squeeze_export.cli.options import FILE, Numbers, Option, option
from squeeze_export.cli.options.completion import DeviceName, RuntimeName
from squeeze_export.pipeline.sessions import RunOptions

_option = partial(option, group="Running")


def device_option(default: str, text: str) -> Option:
    """`--device NAME`."""
    return _option("--device", type=DeviceName(), default=default, metavar="NAME", help=text)


THREADS = _option("--threads", default=RunOptions.threads, help="Threads of each session.")
ROUNDS = _option("--rounds", default=RunOptions.rounds, help="Timed inferences of each file.")
EMULATED_IMAGES = _option(
    "--emulated-images", default=RunOptions.emulated_images, metavar="N", help="Images to run on an emulated device."
)
FULL_PLACEMENT = _option(
    "--require-full-placement", is_flag=True, help="Exit code 5 if an operator falls back, that is, runs elsewhere than asked."
)
NO_VALIDATE = _option("--no-validate", is_flag=True, help="Do not compare with the fp32 reference.")
NO_BENCH = _option("--no-bench", is_flag=True, help="Do not time.")

RUNTIME = _option(
    "--runtime",
    type=RuntimeName(),
    metavar="NAME",
    help="Runtime to use instead of the target's default; the target's guide lists them.",
)
CPUS = _option("--cpus", type=Numbers("N,...", int, "a list of CPU numbers"), help="Pin the process to these logical CPUs.")

RUNNING = (
    RUNTIME,
    device_option(RunOptions.device, "Device to run on. No other one is used in its place."),
    THREADS,
    CPUS,
    ROUNDS,
    EMULATED_IMAGES,
    _option("--on", metavar="URL", help="Run on a board: ssh://user@host[:port], or adb://SERIAL with --benchmark-binary."),
    _option("--benchmark-binary", type=FILE, help="Android: LiteRT's benchmark_model, built for the device."),
    _option("--ssh-config", type=FILE, help="OpenSSH configuration to use instead of your own."),
    _option("--board-python", default=RunOptions.board_python, metavar="NAME", help="The Python to start on the board."),
    FULL_PLACEMENT,
)
"""All but the last are named after the fields of `RunOptions`."""
