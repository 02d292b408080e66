#!/usr/bin/env bash
# OpenVINO 2026.4.1, CPU: a FakeQuantize with one low bound and a high bound for each channel, between two int8 convolutions.
#
# Expected: bounds broadcast, as the operator's specification says: a low bound of 0 written once is the same as 0 written for each
# channel. Where the plugin cannot run such activations in int8 (their scales differ by channel), it runs them in float.
# Seen: with the low bounds written for each channel the result is right. With one low bound the plugin takes the activations for int8
# all the same, and the output is wrong by almost its whole range. No warning, no error.
#
# Exit code 0 while this is so; 1 once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" --quiet --disable-pip-version-check install openvino==2026.4.1 numpy==2.4.6
cd "$work"
"$work/env/bin/python" - <<'PYTHON'
import sys

import numpy as np
import openvino
from openvino import opset13 as op

SIDE, MIDDLE, OUT = 12, 8, 10
generator = np.random.default_rng(1)
weights = [generator.normal(0, 0.3, shape).astype(np.float32) for shape in ((MIDDLE, 3, 1, 1), (OUT, MIDDLE, 1, 1))]
scales = [(np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127).astype(np.float32) for weight in weights]
integers = [np.round(weight / scale).astype(np.int8) for weight, scale in zip(weights, scales)]
high = np.linspace(0.2, 6, MIDDLE, dtype=np.float32).reshape(1, MIDDLE, 1, 1)
image = generator.normal(0, 1, (1, 3, SIDE, SIDE)).astype(np.float32)


def constant(value):
    return op.constant(np.asarray(value, np.float32))


def convolved(values, layer):
    weight = op.multiply(op.convert(op.constant(integers[layer]), "f32"), constant(scales[layer]))
    return op.convolution(values, weight, [1, 1], [0, 0], [0, 0], [1, 1])


def computed(low):
    source = op.parameter([1, 3, SIDE, SIDE], np.float32, name="x")
    values = op.fake_quantize(source, constant(-2), constant(2), constant(-2), constant(2), 256)
    values = op.relu(convolved(values, 0))
    values = op.fake_quantize(values, constant(low), constant(high), constant(low), constant(high), 256)
    model = openvino.Model([op.result(convolved(values, 1))], [source], "two convolutions")
    return openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(image)[0]


def quantized(values, low, top):
    return np.round((np.clip(values, low, top) - low) / (top - low) * 255) / 255 * (top - low) + low


real = [(number * scale).astype(np.float64)[:, :, 0, 0] for number, scale in zip(integers, scales)]
middle = np.maximum(np.einsum("oc,nchw->nohw", real[0], quantized(image.astype(np.float64), -2, 2)), 0)
by_hand = np.einsum("oc,nchw->nohw", real[1], quantized(middle, 0, high.astype(np.float64)))
errors = {}
for name, low in (("for each channel", np.zeros_like(high)), ("one", 0)):
    errors[name] = float(np.abs(computed(low) - by_hand).max() / np.abs(by_hand).max())
    print(f"low bound {name}: largest error {errors[name]:.1%} of the largest output")
sys.exit(0 if errors["for each channel"] < 0.02 and errors["one"] > 0.3 else 1)
PYTHON
