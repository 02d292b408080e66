"""MediaPipe's ImageClassifier, as an app uses it, on our int8 file: it loads, names the classes, and gives our answers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeeze_export.core import Artifact, EmitOptions
from squeeze_export.formats import format_named
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.quantized import INT8, QuantizedGraph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.quant.recipes import quantize
from squeeze_export.runtimes.tflite import litert
from squeeze_export.targets import tflite

pytest.importorskip("mediapipe")


@cache
def network(assets: Path) -> tuple[QuantizedGraph, Any]:
    """v1.1 with labels, calibrated on four photographs, and 20 others of its input size: MediaPipe has nothing to stretch."""
    checkpoint = read_checkpoint(assets / "weights" / "squeezenet1_1.pth")
    labels = tuple((assets / "images" / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines())
    graph = build_graph(checkpoint.architecture, checkpoint.tensors, checkpoint.preprocess, labels=labels)
    files = sorted((assets / "images" / "calib").glob("*.jpg"))[:24]
    pixels = np.stack([load_pixels(file, checkpoint.preprocess) for file in files])
    return quantize(graph, pixels[:4], FloatRunner(graph), INT8, threads=2), pixels[4:]


def classify(content: bytes, pixels: Any) -> list[list[Any]]:
    """Per image, the best three categories."""
    import mediapipe
    from mediapipe.tasks import python as tasks
    from mediapipe.tasks.python import vision

    options = vision.ImageClassifierOptions(base_options=tasks.BaseOptions(model_asset_buffer=content), max_results=3)
    found = []
    with vision.ImageClassifier.create_from_options(options) as classifier:
        for image in pixels:
            result = classifier.classify(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image.copy()))
            found.append(result.classifications[0].categories)
    return found


@pytest.mark.parametrize(
    "options", [EmitOptions(), EmitOptions(softmax=True), EmitOptions("dynamic"), EmitOptions(input_dtype="float32")], ids=str
)
def test_mediapipe_gives_our_classes_labels_and_scores(assets: Path, tmp_path: Path, options: EmitOptions) -> None:
    quantized, photographs = network(assets)
    content = tflite.emit(quantized, INT8, options, {})
    path = tmp_path / "net.tflite"
    path.write_bytes(content)
    session = litert.open_session(
        Artifact(path, "tflite", "int8", "", 0, *format_named("tflite").describe(path)), device="cpu", threads=1
    )
    ours = session.infer(photographs)
    assert len({int(row.argmax()) for row in ours}) > 10
    np.testing.assert_array_equal(ours[:1].argmax(1), IntegerRunner(quantized)(photographs[:1]).argmax(1))
    for categories, scores in zip(classify(content, photographs), ours, strict=True):
        assert categories[0].index == scores.argmax()
        assert categories[0].category_name == quantized.labels[int(scores.argmax())]
        np.testing.assert_allclose([c.score for c in categories], scores[[c.index for c in categories]], rtol=1e-5)
