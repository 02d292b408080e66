"""Do two checkouts of this project write the same bytes? For a change that is not meant to change any file.

    python tools/same_bytes.py BEFORE AFTER [--weights FILE --calib DIR]

Each checkout exports every target in every scheme that it carries, and some outer forms, in a process of its own. Every file is
compared, sidecars included. Exit code 1 where one differs or is missing. Run it where the extras of all targets are installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

EXPORT_ALL = """
import json, sys
from pathlib import Path
from squeeze_export.core import EmitOptions
from squeeze_export.pipeline import Job, run
from squeeze_export.registry import TARGETS
from squeeze_export.targets import target_named

out, weights, calib = Path(sys.argv[1]), sys.argv[2] or None, Path(sys.argv[3]) if sys.argv[3] else None
forms = {"": {}, "dynamic": {"batch": "dynamic"}, "float-input": {"input_dtype": "float32"}, "softmax": {"softmax": True}}
extra = {
    "tflite": {"int8-input": {"input_dtype": "int8"}},
    "coreml": {
        "dynamic": {"batch": "dynamic", "input_dtype": "float32"}, "ios18": {"ios": 18}, "half": {"coreml_compute": "float16"},
    },
    "coreai": {"qdq": {"coreai_form": "qdq"}, "half": {"coreai_form": "qdq", "coreai_compute": "float16"}},
}
for target in (name for name in ("onnx", "tflite", "openvino", "coreml", "coreai") if name in TARGETS):
    for scheme in target_named(target).SCHEMES:
        chosen = forms | extra.get(target, {}) if scheme == "int8" else {"": {}}
        for name, form in chosen.items():
            run(Job((target,), scheme=scheme, weights=weights, calib=calib, out=out / f"{target}-{scheme}-{name}",
                    options=EmitOptions(**form), validate=False, bench=False))
    run(Job((target,), scheme="int8", weights=weights, calib=calib, out=out / f"{target}-kept", keep_float=("conv1",),
            validate=False, bench=False))
"""


def hashes(root: Path, weights: str, calib: str) -> dict[str, str]:
    """Path inside the output folder -> sha256, of everything that a checkout writes but reports."""
    with tempfile.TemporaryDirectory() as folder:
        # -P: the search path begins with the checkout, not with the folder that this is run from.
        command = [sys.executable, "-P", "-W", "ignore", "-c", EXPORT_ALL, folder, weights, calib]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(root)}, stdout=subprocess.DEVNULL)
        files = [path for path in Path(folder).rglob("*") if path.is_file() and not path.name.startswith("report.")]
        return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path, help="a checkout, or the JSON that --save wrote of one")
    parser.add_argument("after", type=Path)
    parser.add_argument("--weights", default="", help="a checkpoint; the embedded demo network where it is left out")
    parser.add_argument("--calib", default="", help="calibration images, for other networks than the demo's")
    parser.add_argument("--save", type=Path, help="write the hashes of AFTER to this JSON file")
    given = parser.parse_args()
    read = given.before.is_file()
    before = json.loads(given.before.read_text()) if read else hashes(given.before.resolve(), given.weights, given.calib)
    after = hashes(given.after.resolve(), given.weights, given.calib)
    if given.save:
        given.save.write_text(json.dumps(after, indent=1))
    different = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    for name in different:
        print(f"differs: {name}" if name in before and name in after else f"in one alone: {name}")
    print(f"{len(before)} files before, {len(after)} after, {len(different)} different")
    return 1 if different or not before else 0


if __name__ == "__main__":
    sys.exit(main())
