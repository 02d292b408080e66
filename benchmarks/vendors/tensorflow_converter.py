"""The TensorFlow converter's own full-integer quantization of SqueezeNet 1.1: python -m ... WEIGHTS CALIB OUT."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main(weights: Path, calib: Path, out: Path) -> None:
    """Builds the network in plain TensorFlow operators, converts and writes it."""
    import numpy as np
    import tensorflow as tf
    from safetensors.numpy import load_file

    from squeeze_export.core import TORCHVISION
    from squeeze_export.images.folders import open_calibration
    from squeeze_export.images.stream import load_all

    tensors = load_file(weights)
    mean, std = np.float32(TORCHVISION.mean), np.float32(TORCHVISION.std)

    def conv(x: tf.Tensor, key: str, stride: int = 1, padding: str = "SAME") -> tf.Tensor:
        kernel = tf.constant(tensors[f"{key}.weight"].transpose(2, 3, 1, 0))
        return tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, stride, padding), tensors[f"{key}.bias"]))

    @tf.function(input_signature=[tf.TensorSpec((1, 224, 224, 3), tf.float32)])
    def network(x: tf.Tensor) -> tf.Tensor:
        x = conv((x - mean) / std, "features.0", 2, "VALID")
        for index in range(2, 13):
            if index in (2, 5, 8):
                x = tf.nn.max_pool2d(x, 3, 2, "VALID")
            else:
                x = conv(x, f"features.{index}.squeeze")
                x = tf.concat([conv(x, f"features.{index}.expand1x1"), conv(x, f"features.{index}.expand3x3")], 3)
        return tf.reduce_mean(conv(x, "classifier.1"), (1, 2))

    def images() -> Iterator[list[np.ndarray]]:
        pixels = load_all(open_calibration(calib), TORCHVISION)[0].pixels
        for image in pixels:
            yield [image[None].astype(np.float32)]

    converter = tf.lite.TFLiteConverter.from_concrete_functions([network.get_concrete_function()])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = images
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    out.write_bytes(converter.convert())


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
