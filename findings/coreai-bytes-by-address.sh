#!/usr/bin/env bash
# coreai-core 1.0.0b3: the same program, built by the same lines in several processes.
#
# Expected: the same bytes in main.mlirb, or at least the same names in it. A file's hash can then tell whether a model has changed,
# and an unchanged model needs no new review or download. Twice in one process the bytes are the same, so a test in one process passes.
# Seen: a constant of 256 elements or more is stored under a name with a number that changes with memory addresses, so nearly every
# process writes another file. With 255 elements, which are written in line, all processes write the same one.
#
# Exit code 0 while this is so; 1 once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" --quiet --disable-pip-version-check install coreai-core==1.0.0b3 numpy==2.4.6
cd "$work"
cat >build.py <<'PYTHON'
import hashlib
import sys
from pathlib import Path
from typing import Annotated

import coreai.authoring as ai
import numpy as np

COUNT = int(sys.argv[1])


def build(path):
    def program(x):
        return ai.broadcasting_add(x, np.arange(COUNT, dtype=np.float32))

    result = ai.TensorType((COUNT,), np.float32, name="y")
    program.__annotations__ = {"x": Annotated[ai.Value, ai.TensorType((COUNT,), np.float32)], "return": Annotated[ai.Value, result]}
    module = ai.Module.create()
    with module:
        ai.graph(program, provided_name="main")
    ai.AIProgram(module).save_asset(path)
    return (path / "main.mlirb").read_bytes()


one, other = build(Path("one.aimodel").resolve()), build(Path("other.aimodel").resolve())
name = one.find(b"resource_")
print(hashlib.sha256(one).hexdigest()[:16], "twice the same" if one == other else "not the same twice", end=" ")
print(one[name : name + 24].split(b"\0")[0].decode("ascii", "replace") if name >= 0 else "no name")
PYTHON
for count in 255 256; do
    for process in 1 2 3 4; do "$work/env/bin/python" build.py $count 2>/dev/null; done >"told-$count"
    echo "$count elements, four processes:"
    sed 's/^/    /' "told-$count"
done
test "$(sort -u told-255 | wc -l)" -eq 1 && test "$(cut -d' ' -f1 told-256 | sort -u | wc -l)" -gt 1 && ! grep -q 'not the same' told-256
