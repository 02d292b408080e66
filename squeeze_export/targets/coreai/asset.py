"""An `.aimodel` as files: the program, its hash and the metadata. Core AI writes them; what differs between runs is evened out.

Core AI names large constants by a number that depends on addresses, orders metadata as it likes, writes the date, and the file and
line of the code that called the builder. None of that means anything to the program.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from squeeze_export.core import require
from squeeze_export.targets.coreai import program
from squeeze_export.targets.coreai.program import EXTRA

METADATA = "metadata.json"

_DATE = "creationDate"
_RESOURCE = re.compile(r"\bresource_\d+\b")
_BUILDER = re.escape(Path(program.__file__).name)
_SOURCE = re.compile(rf'(loc\(|filename = )"{_BUILDER}"(:\d+:\d+)?')


def asset_files(module: Any, custom: Mapping[str, Any], *, author: str, description: str) -> dict[str, bytes]:
    """The files of an asset: path inside it -> bytes; the same content gives the same bytes.

    Args:
        module: a `coreai.authoring.Module`.
        custom: metadata of the file's creator: text, numbers, lists of them.
        author: likewise, for Xcode to show.
        description: likewise.
    """
    ai, ir = require("coreai.authoring", EXTRA), require("coreai._compiler.ir", EXTRA)
    mlir = module._mlir_module  # the public builder has no way to read a module's text, nor to make one of it
    text = _evened(mlir.operation.get_asm(enable_debug_info=True))
    about = require("coreai.runtime", EXTRA).AIModelAssetMetadata()
    about.author, about.model_description = author, description
    for key, value in custom.items():
        about.set_custom(key, value)
    with tempfile.TemporaryDirectory(prefix="squeeze-export-") as folder, mlir.context:
        path = Path(folder).resolve() / "network.aimodel"
        ai.AIProgram._from_mlir_module(ir.Module.parse(text)).save_asset(path, metadata=about)
        files = {file.relative_to(path).as_posix(): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
    told = json.loads(files[METADATA])
    told.pop(_DATE, None)
    files[METADATA] = f"{json.dumps(told, ensure_ascii=False, indent=2, sort_keys=True)}\n".encode()
    return files


def _evened(text: str) -> str:
    """A module's text with resources named in order of occurrence, and without the lines of the code that built it."""
    names: dict[str, str] = {}
    text = _RESOURCE.sub(lambda found: names.setdefault(found.group(), f"resource_{len(names)}"), text)
    return _SOURCE.sub(lambda found: f'{found[1]}"network"{":1:0" if found[2] else ""}', text)
