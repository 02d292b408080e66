#!/usr/bin/env bash
# coreai-core 1.0.0b3, Apple's interpreter for Linux: dequantize in float16 with a scale below 2**-14.
#
# Expected: float16 holds such scales as subnormal numbers down to 2**-24, with fewer bits. The result is code times scale, a little
# coarser. Scales of this size are usual for the weights of a first layer that takes pixels from 0 to 255.
# Seen: from 2**-15 down the scale is read about 60 to 130 times too small, and all results with it. No error, no warning. The same
# numbers are right in float32, and in float16 with a scale of 2**-14 or more.
#
# Exit code 0 while this is so; 1 once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" --quiet --disable-pip-version-check install coreai-core==1.0.0b3 numpy==2.4.6
cd "$work"
"$work/env/bin/python" - 2>/dev/null <<'PYTHON'
import asyncio
import sys
from pathlib import Path
from typing import Annotated

import coreai.authoring as ai
import numpy as np
from coreai.runtime import NDArray

CODES = np.array([1, 2, 4, 127], np.uint8)


def computed(scale, dtype):
    """The codes, dequantized by a program with this one operator."""

    def program(x):
        return ai.dequantize(x, dtype(scale), np.uint8(0), dtype(0), np.array([0], np.int32))

    result = ai.TensorType(CODES.shape, dtype, name="y")
    program.__annotations__ = {"x": Annotated[ai.Value, ai.TensorType(CODES.shape, np.uint8)], "return": Annotated[ai.Value, result]}
    module = ai.Module.create()
    with module:
        ai.graph(program, provided_name="main")
    path = Path(f"{scale}-{dtype.__name__}.aimodel").resolve()
    ai.AIProgram(module).save_asset(path)

    async def run():
        async with ai.AIModelAsset.load(path).executable() as model:
            given = await model.load_function("main")({"x": NDArray(CODES)})
            return np.array(given["y"].numpy())

    return asyncio.run(run())


factors = {}
for power in (-13, -14, -15, -16, -18):
    for dtype in (np.float32, np.float16):
        wanted = CODES.astype(dtype) * dtype(2.0**power)  # exact in both types
        found = computed(2.0**power, dtype)
        factors[dtype, power] = float(wanted[-1]) / float(found[-1])
        print(f"{dtype.__name__}, scale 2**{power}: {found.astype(float)}, too small by a factor of {factors[dtype, power]:.3g}")
right = [factors[np.float32, power] for power in (-13, -14, -15, -16, -18)] + [factors[np.float16, power] for power in (-13, -14)]
wrong = [factors[np.float16, power] for power in (-15, -16, -18)]
sys.exit(0 if right == [1.0] * 7 and min(wrong) > 10 else 1)
PYTHON
