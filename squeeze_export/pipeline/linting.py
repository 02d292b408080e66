"""The lint job: a file's operators against a chip's documented rules. No toolchain, and no runtime, is needed, but
for Core AI files its own parser."""

from __future__ import annotations

from pathlib import Path

from squeeze_export.errors import BadInput
from squeeze_export.formats import format_named
from squeeze_export.lint import Finding, lint, rulebook_named
from squeeze_export.pipeline.export import compiler_of

_FORMATS = ("onnx", "tflite", "coreai")


def lint_file(path: Path, chip: str) -> tuple[Finding, ...]:
    """Says which operators of a file a chip does not support, why, and what to change.

    Args:
        path: a TFLite or ONNX file or a Core AI asset, of any tool.
        chip: a key of `registry.RULEBOOKS`.

    Returns:
        One finding for each operator that breaks a rule, in the file's order; empty if none does.

    Raises:
        BadInput: no such file, or one of another format than the rules are for; no such chip.
        Unavailable: the package that reads the format is not installed.
    """
    book = rulebook_named(chip)
    suffixes = {format_named(name).SUFFIX: name for name in _FORMATS}
    if path.suffix not in suffixes:
        raise BadInput(f"`{path}` is no file that lint can read", hint=f"it reads {', '.join(suffixes)}")
    compiler = compiler_of(path)
    if compiler is not None:
        raise BadInput(f"`{path}` is compiled by {compiler} already", hint="lint the file that it was compiled from")
    if not path.exists():
        raise BadInput(f"`{path}` is not a file")
    return lint(format_named(suffixes[path.suffix]).listing(path), book)
