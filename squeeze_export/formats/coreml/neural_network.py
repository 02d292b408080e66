"""Neural networks in Core ML's form before ML programs: a `.mlmodel` file, or a package of one, whose layers hold their weights.

Such a network computes in floats. Its weights may be quantized: indices into a table of floats, or integers with a scale. Only a
linear layer may ask for its activations to be quantized while it runs.

Source of the numbers: mlmodel/format/Model.proto and NeuralNetwork.proto of github.com/apple/coremltools (BSD 3-clause). The tests
compare them with coremltools.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from squeeze_export.formats.audit import Arithmetic
from squeeze_export.formats.contents import UNTOLD, Attribute, Contents, FileOperator, FileTensor
from squeeze_export.formats.coreml.wire import Message, Unread

NETWORKS: Mapping[int, str] = {303: "neuralNetworkRegressor", 403: "neuralNetworkClassifier", 500: "neuralNetwork"}
"""The fields of `Model` that hold a neural network."""
ML_PROGRAM = 502
"""The field with an ML program."""
OTHERS: Mapping[int, str] = {
    200: "pipelineClassifier", 201: "pipelineRegressor", 202: "pipeline", 300: "glmRegressor", 301: "supportVectorRegressor",
    302: "treeEnsembleRegressor", 304: "bayesianProbitRegressor", 400: "glmClassifier", 401: "supportVectorClassifier",
    402: "treeEnsembleClassifier", 404: "kNearestNeighborsClassifier", 501: "itemSimilarityRecommender", 555: "customModel",
    556: "linkedModel", 560: "classConfidenceThresholding", 600: "oneHotEncoder", 601: "imputer", 602: "featureVectorizer",
    603: "dictVectorizer", 604: "scaler", 606: "categoricalMapping", 607: "normalizer", 609: "arrayFeatureExtractor",
    610: "nonMaximumSuppression", 900: "identity", 2000: "textClassifier", 2001: "wordTagger", 2002: "visionFeaturePrint",
    2003: "soundAnalysisPreprocessing", 2004: "gazetteer", 2005: "wordEmbedding", 2006: "audioFeaturePrint",
    3000: "serializedModel",
}  # fmt: skip
"""The other fields of `Model` that hold a model; they are not read."""
PRODUCTS = frozenset({
    "convolution", "convolution3d", "innerProduct", "batchedMatmul", "simpleRecurrent", "gru", "uniDirectionalLSTM",
    "biDirectionalLSTM",
})  # fmt: skip
LAYERS: Mapping[int, str] = {
    100: "convolution", 120: "pooling", 130: "activation", 140: "innerProduct", 150: "embedding", 160: "batchnorm", 165: "mvn",
    170: "l2normalize", 175: "softmax", 180: "lrn", 190: "crop", 200: "padding", 210: "upsample", 211: "resizeBilinear",
    212: "cropResize", 220: "unary", 230: "add", 231: "multiply", 240: "average", 245: "scale", 250: "bias", 260: "max",
    261: "min", 270: "dot", 280: "reduce", 290: "loadConstant", 300: "reshape", 301: "flatten", 310: "permute", 320: "concat",
    330: "split", 340: "sequenceRepeat", 345: "reorganizeData", 350: "slice", 400: "simpleRecurrent", 410: "gru",
    420: "uniDirectionalLSTM", 430: "biDirectionalLSTM", 500: "custom", 600: "copy", 605: "branch", 615: "loop", 620: "loopBreak",
    625: "loopContinue", 635: "rangeStatic", 640: "rangeDynamic", 660: "clip", 665: "ceil", 670: "floor", 680: "sign",
    685: "round", 700: "exp2", 710: "sin", 715: "cos", 720: "tan", 730: "asin", 735: "acos", 740: "atan", 750: "sinh",
    755: "cosh", 760: "tanh", 770: "asinh", 775: "acosh", 780: "atanh", 790: "erf", 795: "gelu", 815: "equal", 820: "notEqual",
    825: "lessThan", 827: "lessEqual", 830: "greaterThan", 832: "greaterEqual", 840: "logicalOr", 845: "logicalXor",
    850: "logicalNot", 855: "logicalAnd", 865: "modBroadcastable", 870: "minBroadcastable", 875: "maxBroadcastable",
    880: "addBroadcastable", 885: "powBroadcastable", 890: "divideBroadcastable", 895: "floorDivBroadcastable",
    900: "multiplyBroadcastable", 905: "subtractBroadcastable", 920: "tile", 925: "stack", 930: "gather", 935: "scatter",
    940: "gatherND", 945: "scatterND", 950: "softmaxND", 952: "gatherAlongAxis", 954: "scatterAlongAxis", 960: "reverse",
    965: "reverseSeq", 975: "splitND", 980: "concatND", 985: "transpose", 995: "sliceStatic", 1000: "sliceDynamic",
    1005: "slidingWindows", 1015: "topK", 1020: "argMin", 1025: "argMax", 1040: "embeddingND", 1045: "batchedMatmul",
    1065: "getShape", 1070: "loadConstantND", 1080: "fillLike", 1085: "fillStatic", 1090: "fillDynamic", 1100: "broadcastToLike",
    1105: "broadcastToStatic", 1110: "broadcastToDynamic", 1120: "squeeze", 1125: "expandDims", 1130: "flattenTo2D",
    1135: "reshapeLike", 1140: "reshapeStatic", 1145: "reshapeDynamic", 1150: "rankPreservingReshape", 1155: "constantPad",
    1170: "randomNormalLike", 1175: "randomNormalStatic", 1180: "randomNormalDynamic", 1190: "randomUniformLike",
    1195: "randomUniformStatic", 1200: "randomUniformDynamic", 1210: "randomBernoulliLike", 1215: "randomBernoulliStatic",
    1220: "randomBernoulliDynamic", 1230: "categoricalDistribution", 1250: "reduceL1", 1255: "reduceL2", 1260: "reduceMax",
    1265: "reduceMin", 1270: "reduceSum", 1275: "reduceProd", 1280: "reduceMean", 1285: "reduceLogSum", 1290: "reduceSumSquare",
    1295: "reduceLogSumExp", 1313: "whereNonZero", 1315: "matrixBandPart", 1320: "lowerTriangular", 1325: "upperTriangular",
    1330: "whereBroadcastable", 1350: "layerNormalization", 1400: "NonMaximumSuppression", 1450: "oneHot", 1455: "cumSum",
    1460: "clampedReLU", 1461: "argSort", 1465: "pooling3d", 1466: "globalPooling3d", 1470: "sliceBySize", 1471: "convolution3d",
}  # fmt: skip
"""The fields of `NeuralNetworkLayer` that tell what a layer does."""
_GATES = tuple((20, number) for number in (1, 2, 3, 4, 20, 21, 22, 23, 40, 41, 42, 43, 60, 61, 62))
WEIGHTS: Mapping[str, tuple[tuple[int, ...], ...]] = {
    "convolution": ((90,), (91,)),
    "activation": ((25, 1), (71, 1), (71, 2)),
    "innerProduct": ((20,), (21,)),
    "embedding": ((20,), (21,)),
    "batchnorm": ((15,), (16,), (17,), (18,)),
    "scale": ((2,), (5,)),
    "bias": ((2,),),
    "loadConstant": ((2,),),
    "simpleRecurrent": ((30,), (31,), (32,)),
    "gru": ((30,), (31,), (32,), (50,), (51,), (52,), (70,), (71,), (72,)),
    "uniDirectionalLSTM": _GATES,
    "biDirectionalLSTM": _GATES,
    "custom": ((20,),),
    "embeddingND": ((20,), (21,)),
    "batchedMatmul": ((8,), (9,)),
    "loadConstantND": ((2,),),
    "layerNormalization": ((3,), (4,)),
    "convolution3d": ((60,), (61,)),
}
"""Where a layer's `WeightParams` are: the numbers of the fields that lead to them. Weights come first, then a bias."""
DYNAMIC: Mapping[str, int] = {"innerProduct": 22, "batchedMatmul": 10}
"""The field that asks for activations to be quantized while the layer runs."""

_FIRST_LAYER = 100
_OPAQUE = {"custom": "a foreign operator", "branch": "it has operators inside", "loop": "it has operators inside"}
_PACKED = "weights"
"""Attribute: how a layer's weights are quantized."""
_IS_DYNAMIC = "int8DynamicQuantize"
_LINEAR, _LOOKUP_TABLE = 101, 102
_IMAGE, _ARRAY, _GRAY = 4, 5, 10


@dataclass(frozen=True)
class FloatLayers(Arithmetic):
    """A network's `audit.Arithmetic`: every layer computes in floats."""

    contents: Contents

    def is_float(self, place: int) -> bool:
        """See `audit.Arithmetic`."""
        return not self.contents.operators[place].opaque

    def reasons(self, place: int) -> list[str]:
        """See `audit.Arithmetic`."""
        operator = self.contents.operators[place]
        found = [f"its input `{tensor.name}` is {tensor}" for tensor in operator.inputs if not tensor.constant]
        found += [f"its operand `{t.name}` is stored as {t}" for t in operator.inputs if t.constant and t.floating]
        packed = packed_weights(operator)
        return [*found, f"its weights alone are quantized: {packed}"] if packed else found

    def takes_parameter(self, place: int, index: int) -> bool:
        """See `audit.Arithmetic`: tables and scales are part of the weights, so there are none."""
        return False


def packed_weights(operator: FileOperator) -> str:
    """How a layer's weights are quantized: `8-bit lookup table`, `8-bit linear`, or empty."""
    return str(operator.attributes.get(_PACKED, ""))


def faults(operator: FileOperator) -> Iterator[str]:
    """See `audit.Policy.faults`."""
    if _IS_DYNAMIC in operator.attributes:
        what = f"its weights are {packed_weights(operator)}, and it quantizes its activations, which are floats, while it runs"
        yield f"{operator.kind} `{operator.name}`: dynamic-range quantization, {what}"


def kind_of(model: Message) -> int:
    """The field of `Model` that holds the network: a key of `NETWORKS`, or that of an ML program.

    Raises:
        Unread: it is a model of another kind.
        ValueError: it is no model.
    """
    found = [number for number in model.numbers if number not in (1, 2, 10)]
    if model.integer(1) < 1 or 2 not in model or len(found) != 1:
        raise ValueError("it holds no model: no ML program and no neural network")
    if found[0] not in (*NETWORKS, ML_PROGRAM):
        raise Unread(f"its model is of the kind `{OTHERS.get(found[0], found[0])}`, not an ML program or a neural network")
    return found[0]


def network_contents(model: Message, field: int, metadata: Mapping[str, str]) -> Contents:
    """A network as operators and tensors. Numbers, shapes and names of the layers' other parameters are not read.

    Args:
        model: the `Model` message.
        field: a key of `NETWORKS`.
        metadata: of the model.

    Raises:
        ValueError: it is damaged.
    """
    network, description = model.message(field, NETWORKS[field]), model.message(2, "ModelDescription")
    inputs = tuple(_feature(entry) for entry in description.messages(1, "FeatureDescription"))
    tensors = {tensor.name: tensor for tensor in inputs}
    operators = []
    for place, layer in enumerate(network.messages(1, "NeuralNetworkLayer")):
        operators.append(_layer(layer, place, tensors))
        tensors.update((tensor.name, tensor) for tensor in operators[-1].outputs)
    if not operators:
        raise ValueError("its network has no layers")
    given = [entry.text(1) for entry in description.messages(10, "FeatureDescription")]
    outputs = tuple(tensors[name] for name in given if name in tensors) or operators[-1].outputs
    constants = tuple(tensor for operator in operators for tensor in operator.inputs if tensor.constant)
    form = f"a neural network of Core ML's specification {model.integer(1)}, which computes in floats"
    return Contents("coreml", tuple(operators), inputs, outputs, constants, metadata, form=form)


def _feature(message: Message) -> FileTensor:
    name, kind = message.text(1), message.message(3, "FeatureType")
    if _IMAGE in kind:
        image = kind.message(_IMAGE, "ImageFeatureType")
        return FileTensor(name, "float32", (1, 1 if image.integer(3) == _GRAY else 3, image.integer(2), image.integer(1)))
    shape = kind.message(_ARRAY, "ArrayFeatureType").integers(1) if _ARRAY in kind else UNTOLD
    return FileTensor(name, "float32", tuple(shape))


def _layer(message: Message, place: int, tensors: Mapping[str, FileTensor]) -> FileOperator:
    numbers = [number for number in message.numbers if number >= _FIRST_LAYER]
    if len(numbers) != 1:
        raise ValueError(f"a layer is of `{len(numbers)}` kinds")
    (number,) = numbers
    name, kind = message.text(1), LAYERS.get(number, f"layer:{number}")
    parameters = message.message(number, kind)
    inputs = []
    for source in message.texts(2):
        if source not in tensors:
            raise ValueError(f"`{kind}` `{name}` takes `{source}`, which nothing before it makes")
        inputs.append(tensors[source])
    attributes: dict[str, Attribute] = {}
    for index, weights in enumerate(_stored(parameters, WEIGHTS.get(kind, ()))):
        role = ("weights", "bias")[index] if index < 2 else f"parameter{index}"
        tensor, packed = _weights(weights, f"{name}.{role}", (place, index))
        inputs += tensor
        if packed:
            attributes.setdefault(_PACKED, packed)
    if kind in DYNAMIC and parameters.integer(DYNAMIC[kind]):
        attributes[_IS_DYNAMIC] = True
    # A loop may write a tensor again: each one that is made is another.
    outputs = tuple(FileTensor(made, "float32", UNTOLD, place=(place, made)) for made in message.texts(3))
    opaque = _OPAQUE.get(kind, "") if number in LAYERS else "a layer that is newer than this reader"
    return FileOperator(kind, name, tuple(inputs), outputs, attributes, opaque)


def _stored(message: Message, paths: Iterable[tuple[int, ...]]) -> Iterator[Message]:
    """The `WeightParams` of a layer."""
    for path in paths:
        found = [message]
        for number in path:
            found = [inner for outer in found for inner in outer.messages(number, "WeightParams")]
        yield from found


def _weights(message: Message, name: str, place: tuple[int, int]) -> tuple[tuple[FileTensor, ...], str]:
    """The stored numbers of a `WeightParams`, none where it is empty, and how they are quantized."""
    message.check((1, 2, 30, 31, 40, 50))
    quantization = message.message(40, "QuantizationParams", (1, _LINEAR, _LOOKUP_TABLE))
    bits = quantization.integer(1)
    for number, dtype, size in ((1, "float32", 32), (2, "float16", 16), (30, f"uint{bits}", bits), (31, "int8", 8)):
        size_bytes = message.size_bytes(number)
        if not size_bytes:
            continue
        if not 0 < size <= 32 or (number == 30 and (bits > 8 or 40 not in message)):
            raise ValueError(f"`{name}` is packed to `{bits}` bits")
        packed = ""
        if number in (30, 31):
            packed = f"{size}-bit {'lookup table' if _LOOKUP_TABLE in quantization else 'linear'}"
        shape = (size_bytes * 8 // size,)
        return (FileTensor(name, dtype, shape, True, size_bytes=size_bytes, place=(*place, name)),), packed
    return (), ""
