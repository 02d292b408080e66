"""Core ML: an ML program for iOS 17 or 18 in a package folder, written by coremltools' builder without TensorFlow or torch.

    input    `image`: one RGB image, which Vision scales and crops; or `input`: (N, H, W, 3) floats, 0 to 255
    output   `logits`, `probabilities` or `scores`: (N, classes) float32, in the order of the classes
             with an image input and labels also what Vision and Xcode show: `classLabel`, and the dictionary
             `classLabel_probs`, which always holds probabilities

A dictionary's keys must be unique, so labels that occur twice get their class index: ImageNet's `crane` is `crane (134)` and
`crane (517)`.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from squeeze_export import __version__
from squeeze_export.core import OUTPUT_NAMES, EmitOptions
from squeeze_export.errors import BadInput, Refused
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import QuantizedGraph, Scheme
from squeeze_export.targets.coreml.package import coremltools, package_files
from squeeze_export.targets.coreml.program import CLASS_PROBABILITIES, build_program

NAME = "coreml"
SUFFIX = ".mlpackage"
SCHEMES = ("fp32", "fp16", "int8", "w8", "palette8", "palette6", "palette4")
RUNTIMES = ("coreml", "coreml-evaluator") if sys.platform == "darwin" else ("coreml-evaluator", "coreml")
PACKAGES = ("coremltools",)

MAX_REASON_CHARACTERS = 300

_LABEL = "classLabel"


def emit(network: Graph | QuantizedGraph, scheme: Scheme, options: EmitOptions, metadata: Mapping[str, str]) -> dict[str, bytes]:
    """Writes the network as a package.

    Args:
        network: a `QuantizedGraph` for int8, else a `Graph`.
        scheme: one of `SCHEMES`.
        options: the outer form. An image input takes one image; a dynamic batch of floats takes up to 64.
        metadata: into the model's user-defined metadata, with the JSON list `labels` unless the package is a classifier.

    Returns:
        Path inside the package -> bytes; the same arguments give the same bytes.

    Raises:
        BadInput: an image input has a batch other than 1, or two of the network's names are the same in Core ML.
        Refused: a number is too large for float16, or coremltools refuses the program.
        Unavailable: `coremltools` is not installed.
    """
    if options.input_dtype == "uint8" and options.batch != 1:
        raise BadInput(f"a Core ML image input takes one image, not `{options.batch}`", hint="--input float32, or --batch 1")
    ct = coremltools()
    # Of a single number the most probable label would say nothing.
    classes = _distinct(network.labels) if options.input_dtype == "uint8" and len(network.labels) > 1 else ()
    program, source = build_program(network, scheme, options, classifier=bool(classes))
    model, weights = _converted(ct, program, source, options, classes)
    _describe(model.description, network, scheme)
    entries = model.description.metadata.userDefined
    for key in [key for key in entries if key.endswith("conversion_date")]:
        del entries[key]
    if network.labels and not classes:
        entries["labels"] = json.dumps(network.labels, ensure_ascii=False)
    for key, text in metadata.items():
        entries[key] = text
    return package_files(model.SerializeToString(deterministic=True), weights)


def _distinct(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels, with the class index added to those that occur more than once."""
    counts = Counter(labels)
    found: dict[str, None] = {}
    for index, label in enumerate(labels):
        name = label
        while counts[name] > (name == label) or name in found:
            name = f"{name} ({index})"
        found[name] = None
    return tuple(found)


def _converted(ct: Any, program: Any, source: Any, options: EmitOptions, classes: Sequence[str]) -> tuple[Any, bytes]:
    """The `Model` message and the blob file. No pass rewrites the program."""
    labels = ct.ClassifierConfig(list(classes), _LABEL, CLASS_PROBABILITIES) if classes else None
    # coremltools prints progress bars to stderr, and warns of a temporary folder that it leaves behind.
    with tempfile.TemporaryDirectory(prefix="squeeze-export-") as folder, warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            model = ct.convert(
                program,
                source="milinternal",
                convert_to="mlprogram",
                inputs=[source],
                classifier_config=labels,
                minimum_deployment_target={17: ct.target.iOS17, 18: ct.target.iOS18}[options.ios],
                compute_precision=ct.precision.FLOAT32,  # keeps the dtypes that the program states
                pass_pipeline=ct.PassPipeline.EMPTY,
                skip_model_load=True,
                package_dir=str(Path(folder) / "network.mlpackage"),
            )
            return model.get_spec(), (Path(model.weights_dir) / "weight.bin").read_bytes()
        except Exception as err:  # coremltools raises plain exceptions
            reason = " ".join(str(err).split())[:MAX_REASON_CHARACTERS]  # it may quote the whole program
            raise Refused(f"coremltools refuses the program: {reason}") from err


def _describe(description: Any, network: Graph | QuantizedGraph, scheme: Scheme) -> None:
    """Sets what Xcode shows, without a licence: that of the weights is not known here."""
    preprocess = network.preprocess
    height, width, channels = preprocess.input_size
    fitted = f"short side to {preprocess.resize_px} px, {preprocess.interpolation}, then the centre"
    if preprocess.resize_mode == "stretch":
        fitted = f"the height to {preprocess.resize_px} px and the width in proportion, {preprocess.interpolation}, then the centre"
    about = description.metadata
    about.shortDescription = f"{network.name}, {scheme.name}: image classifier of {network.output.shape[1]} classes"
    about.author = f"squeeze-export {__version__}"
    about.versionString = network.checkpoint_sha256[:12]
    colours = "grey" if channels == 1 else "RGB"
    image = description.input[0].type.WhichOneof("Type") == "imageType"
    pixels = f"{colours} image" if image else f"{colours} pixels, 0 to 255, NHWC"
    description.input[0].shortDescription = f"{pixels}, {width} x {height} px: {fitted}. Mean and scale are part of the network."
    texts = {
        _LABEL: "The most probable label.",
        f"{_LABEL}_probs": "Label -> probability.",
        OUTPUT_NAMES["softmax"]: "Probabilities, in the order of the classes.",
        OUTPUT_NAMES["sigmoid"]: "The probability of each class by itself, in the order of the classes.",
    }
    for output in description.output:
        output.shortDescription = texts.get(output.name, "Logits, in the order of the classes.")
