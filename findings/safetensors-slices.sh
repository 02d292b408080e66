#!/usr/bin/env bash
# safetensors 0.8.0 with numpy 2.4.6: what `safetensors.numpy.save` writes of an array that is a view.
#
# Expected: the values that the array shows, as numpy.save and torch.save write them, or an error (safetensors.torch.save refuses
# tensors that are not contiguous).
# Seen: the array's memory from its first element on, whatever its strides, under the array's shape. The first two columns of
# [[0 1 2 3] [4 5 6 7] [8 9 10 11]] come back as [[0 1] [2 3] [4 5]]; a transposed array comes back in the order of its memory.
# No error, no warning: half of a layer's filters, cut out by a slice, are saved as other filters.
# What helps: numpy.ascontiguousarray before saving.
#
# Exit code 0 while this is so; 1 once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" --quiet --disable-pip-version-check install safetensors==0.8.0 numpy==2.4.6
"$work/env/bin/python" - <<'PYTHON'
import sys

import numpy as np
from safetensors.numpy import load, save

whole = np.arange(12, dtype=np.float32).reshape(3, 4)
views = {"slice": whole[:, :2], "transposed": whole.T}
wrong = []
for name, view in views.items():
    back = load(save({name: view}))[name]
    print(f"{name}: saved {view.tolist()}, loaded {back.tolist()}")
    if back.shape == view.shape and not np.array_equal(back, view):
        wrong.append(name)
assert np.array_equal(load(save({"copy": np.ascontiguousarray(whole[:, :2])}))["copy"], whole[:, :2])
print("saved wrongly, without a word:", ", ".join(wrong) or "none")
sys.exit(0 if {"slice", "transposed"} <= set(wrong) else 1)
PYTHON
