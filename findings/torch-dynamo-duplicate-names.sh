#!/usr/bin/env bash
# torch 2.13.0 with onnxscript 0.7.2: torch.onnx.export(dynamo=True, optimize=False) of a module that has a buffer named `mean` and
# takes a mean in its forward pass: the usual way to keep the normalization inside a classifier.
#
# Expected: every tensor of the file has a name of its own, whatever the module's buffers are called.
# Seen: the buffer and the result of the mean are both called `mean`. ONNX's checker and ONNX Runtime refuse the file. With the
# exporter's optimizer (the default) the same module is exported rightly.
#
# Exit code 0 while this is so; 1 once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" --quiet --disable-pip-version-check install \
  torch==2.13.0 onnx==1.23.2 onnxruntime==1.31.1 onnxscript==0.7.2 numpy==2.4.6
cd "$work"
"$work/env/bin/python" - 2>/dev/null <<'PYTHON'
import sys

import onnx
import onnxruntime
import torch
from torch import nn


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, image):
        return torch.relu(self.conv(image - self.mean)).mean((2, 3))


found = {}
image = torch.rand(1, 3, 16, 16)
for optimize in (True, False):
    path = f"optimize_{optimize}.onnx"
    torch.onnx.export(Classifier().eval(), (image,), path, dynamo=True, optimize=optimize, verbose=False)
    try:
        onnx.checker.check_model(path, full_check=True)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found[optimize] = f"runs, {session.run(None, {session.get_inputs()[0].name: image.numpy()})[0].shape}"
    except Exception as error:
        found[optimize] = f"refused: {str(error).splitlines()[0][:120]}"
    print(f"optimize={optimize}: {found[optimize]}")
sys.exit(0 if found[True].startswith("runs") and found[False].startswith("refused") and "mean" in found[False] else 1)
PYTHON
