"""Apple's 8-bit lookup-table SqueezeNet 1.1 (`SqueezeNetInt8LUT.mlmodel`), decoded: tensors and preprocessing.

The file is a `neuralNetworkClassifier` of specification version 3: each convolution's weights, and its bias, are one byte an entry
into a table of 256 floats of their own. Format: `WeightParams` in NeuralNetwork.proto of github.com/apple/coremltools; weights of
a convolution are (out, in, height, width).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import Preprocess, require
from squeeze_export.errors import BadInput

MAX_BYTES = 64 << 20
_NOT_NEEDED = ("torch", "torchvision", "executorch", "tensorflow", "keras", "sklearn", "scipy", "xgboost", "libsvm", "pandas")
_FIRST_FIRES = {2: 3, 3: 4, 4: 6, 5: 7, 6: 9, 7: 10, 8: 11, 9: 12}
"""Fire module of the paper -> its place in torchvision's `features`, SqueezeNet 1.1."""


def decode(path: Path) -> tuple[dict[str, NDArray[np.float32]], Preprocess, tuple[str, ...]]:
    """Reads the file.

    Args:
        path: the `.mlmodel`.

    Returns:
        Tensors under torchvision's names, (out, in, k, k) and (out,) float32; the preprocessing as the file states it; the labels
        in index order. The file states biases of +104, +117 and +123, which Core ML adds, where Caffe's network subtracts them:
        taken literally it agrees with its own checkpoint on 20% of images, with `core.CAFFE` on 97%.

    Raises:
        BadInput: it cannot be read, or is another network.
        Unavailable: coremltools is not installed.
    """
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    require("coremltools", "coreml", without=_NOT_NEEDED)
    decode_error = require("google.protobuf.message", "coreml").DecodeError
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"`{path}` is larger than {MAX_BYTES >> 20} MiB")
        model = require("coremltools.proto.Model_pb2", "coreml").Model.FromString(path.read_bytes())
    except OSError as err:
        raise BadInput(f"`{path}` cannot be read: {err.strerror or err}") from err
    except decode_error as err:
        raise BadInput(f"`{path}` is no Core ML model") from err
    if model.WhichOneof("Type") != "neuralNetworkClassifier":
        raise BadInput(f"`{path}` is no neural network classifier")
    network = model.neuralNetworkClassifier
    tensors: dict[str, NDArray[np.float32]] = {}
    for layer in network.layers:
        if layer.WhichOneof("layer") != "convolution":
            continue
        conv, key = layer.convolution, _key(layer.name)
        shape = (conv.outputChannels, conv.kernelChannels, *conv.kernelSize)
        tensors[f"{key}.weight"] = _values(conv.weights).reshape(shape)
        tensors[f"{key}.bias"] = _values(conv.bias)
    image, scaler = model.description.input[0].type.imageType, network.preprocessing[0].scaler
    # colorSpace BGR: the network wants its channels in that order. Core ML adds the biases.
    mean = (-scaler.blueBias, -scaler.greenBias, -scaler.redBias)
    preprocess = Preprocess(256, int(image.width), "bilinear", "bgr", mean, (1 / scaler.channelScale,) * 3)
    return tensors, preprocess, tuple(network.stringClassLabels.vector)


def _key(name: str) -> str:
    """torchvision's name of a layer of SqueezeNet 1.1."""
    if name in ("conv1", "conv10"):
        return {"conv1": "features.0", "conv10": "classifier.1"}[name]
    fire, part = name.split("/")
    return f"features.{_FIRST_FIRES[int(fire.removeprefix('fire'))]}.{part.replace('squeeze1x1', 'squeeze')}"


def _values(weights: Any) -> NDArray[np.float32]:
    table = np.array(weights.quantization.lookupTableQuantization.floatValue, np.float32)
    if weights.quantization.numberOfBits != 8 or len(table) != 256:
        raise BadInput("the weights are no bytes into a table of 256 floats")
    return table[np.frombuffer(weights.rawValue, np.uint8)]
