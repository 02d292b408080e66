"""`--expect` and `--like`: the user's own logits, and a graph, against what was assumed about a state dict."""

import io
import zipfile

import numpy as np
import pytest
import torch
import torch_networks as own
from PIL import Image
from torch.nn.utils import prune

from squeeze_export.core import CAFFE, TORCHVISION
from squeeze_export.errors import BadInput
from squeeze_export.graph.quantized import FP32
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.preprocess import fit
from squeeze_export.nets.architecture import StructureChoice
from squeeze_export.pipeline import PreprocessChoice, expectation, export, open_network

SIDE_PX = 38
CHOICE = PreprocessChoice(crop_px=SIDE_PX, resize_px=44)
CIFAR = "CIFAR-10, padding 3, no final ReLU"
PIXELS = own.pixels_of(2, SIDE_PX)


def preprocess_of(**values):
    return PreprocessChoice(**{"crop_px": SIDE_PX, "resize_px": 44, **values}).applied_to(TORCHVISION)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module", params=list(own.CASES))
def case(request, tmp_path_factory):
    """A checkpoint, its torch network, and the options that fit it."""
    arguments, options = own.CASES[request.param]
    net = own.SqueezeNet(**arguments)
    return own.saved(net, tmp_path_factory.mktemp("net") / "net.pth"), net, options


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    arguments, options = own.CASES[CIFAR]
    net = own.SqueezeNet(**arguments)
    return own.saved(net, tmp_path_factory.mktemp("net") / "net.pth"), net, options


def typed(options):
    """As the hint has it."""
    words = {"final_relu": "--no-final-relu", "ceil_pools": "--pools floor", "bypass": "--bypass simple"}
    return {words.get(name, f"--{name.replace('_', '-')} {value}") for name, value in options.items()}


def hint_of(path, expect, **choice):
    with pytest.raises(BadInput, match="the fp32 reference does not fit") as caught:
        open_network(path, preprocess=PreprocessChoice(**{"crop_px": SIDE_PX, "resize_px": 44, **choice}), expect=expect)
    return caught.value.hint.removeprefix("it would fit with "), caught.value.message


@pytest.mark.parametrize("kind", ["pixels", "input"])
def test_a_reference_that_does_not_fit_is_refused_with_what_would_fit(case, kind, tmp_path):
    path, net, options = case
    logits = own.torch_logits(net, PIXELS, preprocess_of())
    values = PIXELS if kind == "pixels" else own.normalized(PIXELS, preprocess_of()).numpy()
    expect = npz(tmp_path / "expected.npz", **{kind: values, "logits": logits})
    hint, message = hint_of(path, expect)
    assert set(hint.replace(" --", "\n--").split("\n")) == typed(options)
    assert "logits differ by up to " in message
    open_network(path, preprocess=CHOICE, structure=StructureChoice(**options), expect=expect)


def test_one_image_is_enough(cifar, tmp_path):
    path, net, options = cifar
    logits = own.torch_logits(net, PIXELS[:1], preprocess_of())
    expect = npz(tmp_path / "expected.npz", pixels=PIXELS[0], logits=logits[0])
    open_network(path, preprocess=CHOICE, structure=StructureChoice(**options), expect=expect)
    assert hint_of(path, expect)[0] == "--no-final-relu --conv1-pad 3"


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"channel_order": "bgr"}, "--channel-order bgr"),
        ({"mean": CAFFE.mean, "std": CAFFE.std}, "--mean 104,117,123 --std 1,1,1"),
        ({"channel_order": "bgr", "mean": CAFFE.mean, "std": CAFFE.std}, "--channel-order bgr --mean 104,117,123 --std 1,1,1"),
        ({"mean": (0.0, 0.0, 0.0), "std": (255.0, 255.0, 255.0)}, "--mean 0,0,0 --std 255,255,255"),
        ({"interpolation": "bicubic"}, "--interpolation bicubic"),
        ({"resize_mode": "stretch", "resize_px": SIDE_PX}, "--resize-mode stretch"),
    ],
)
def test_pixels_that_do_not_fit(values, hint, tmp_path):
    """A whole photograph, resized as the user does."""
    net = own.SqueezeNet()
    image = np.random.default_rng(3).integers(0, 256, (60, 90, 3), np.uint8)
    truth = preprocess_of(**values)
    logits = own.torch_logits(net, fit(Image.fromarray(image), truth, "image")[None], truth)
    expect = npz(tmp_path / "expected.npz", image=image, logits=logits)
    path = own.saved(net, tmp_path / "net.pth")
    assert hint_of(path, expect)[0] == hint
    open_network(path, preprocess=PreprocessChoice(**{"crop_px": SIDE_PX, "resize_px": 44, **values}), expect=expect)


def test_another_network_fits_with_nothing(tmp_path):
    path = own.saved(own.SqueezeNet(seed=1), tmp_path / "net.pth")
    logits = own.torch_logits(own.SqueezeNet(seed=2), PIXELS, preprocess_of())
    assert "is it this checkpoint?" in hint_of(path, npz(tmp_path / "e.npz", pixels=PIXELS, logits=logits))[0]


def test_probabilities_are_no_logits(tmp_path):
    net = own.SqueezeNet()
    soft = torch.softmax(torch.from_numpy(own.torch_logits(net, PIXELS, preprocess_of())), 1).numpy()
    path = own.saved(net, tmp_path / "net.pth")
    assert "look like probabilities" in hint_of(path, npz(tmp_path / "e.npz", pixels=PIXELS, logits=soft))[0]


LOGITS = np.zeros((2, 10), np.float32)
BAD = {
    "no logits": ({"pixels": PIXELS}, "holds `pixels`; `logits` and one of"),
    "two inputs": ({"pixels": PIXELS, "image": PIXELS, "logits": LOGITS}, "holds `image`, `logits`, `pixels`"),
    "floats as pixels": ({"pixels": PIXELS / 255, "logits": LOGITS}, r"`pixels` of .* is `float64\[2, 38, 38, 3\]`"),
    "channels last": ({"input": PIXELS.astype(np.float32), "logits": LOGITS}, r"\(N, 3, H, W\) floats are needed"),
    "other classes": ({"pixels": PIXELS, "logits": LOGITS[:, :9]}, "2 x 10 finite floats are needed"),
    "not finite": ({"pixels": PIXELS, "logits": LOGITS + np.nan}, "finite floats are needed"),
    "another size": ({"pixels": PIXELS[:, 1:], "logits": LOGITS}, "`pixels` are `37 x 38`, the network's input is `38` px"),
    "objects": ({"pixels": np.array([{}], object), "logits": LOGITS}, "is no `.npz` file of plain arrays"),
    "many": ({"pixels": np.zeros((65, 38, 38, 3), np.uint8), "logits": np.zeros((65, 10))}, "has `65` images"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_files_that_are_refused(name, cifar, tmp_path):
    arrays, message = BAD[name]
    with pytest.raises(BadInput, match=message):
        open_network(cifar[0], preprocess=CHOICE, expect=npz(tmp_path / "e.npz", **arrays))


def bomb():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pixels.npy", bytes(2 << 20))
    return stream.getvalue()


def lying_header():
    """An array of 2^40 bytes in an entry of 200."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (2**20, 2**10, 2**10)})
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("pixels.npy", stream.getvalue())
        archive.writestr("logits.npy", stream.getvalue())
    return out.getvalue()


@pytest.mark.parametrize(
    "draw", [bomb, lying_header, lambda: b"PK\x03\x04 no zip", lambda: b""], ids=["bomb", "lie", "text", "empty"]
)
def test_broken_and_hostile_files_are_refused(draw, cifar, tmp_path, monkeypatch):
    monkeypatch.setattr(expectation, "MAX_BYTES", 1 << 20)
    (tmp_path / "e.npz").write_bytes(draw())
    with pytest.raises(BadInput, match=r"is no `.npz` file|at most 1 MiB"):
        open_network(cifar[0], preprocess=CHOICE, expect=tmp_path / "e.npz")


def test_a_graph_tells_what_its_state_dict_does_not(case, tmp_path):
    path, net, _ = case
    network = open_network(path, like=own.exported(net, tmp_path / "net.onnx", SIDE_PX))
    preprocess = network.graph.preprocess
    assert preprocess.crop_px == SIDE_PX
    found, expected = FloatRunner(network.graph)(PIXELS), own.torch_logits(net, PIXELS, preprocess)
    assert np.array_equal(found.argmax(1), expected.argmax(1))
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert {assumption.why for assumption in network.assumptions} == {"torchvision's preprocessing"}
    assert "crop" not in {assumption.value.split()[0] for assumption in network.assumptions}


class Normalizing(torch.nn.Module):
    """A network that takes pixels from 0 to 1 and normalizes them by itself, as people export it."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        mean, std = (torch.tensor(values)[:, None, None] / 255 for values in ((125.0, 120.0, 110.0), (60.0, 50.0, 70.0)))
        return self.net((x - mean) / std)


def test_preprocessing_inside_the_graph_is_taken_too(cifar, tmp_path):
    path, net, _ = cifar
    network = open_network(path, like=own.exported(Normalizing(net), tmp_path / "net.onnx", SIDE_PX))
    found = network.graph.preprocess
    np.testing.assert_allclose([*found.mean, *found.std], [125, 120, 110, 60, 50, 70], rtol=1e-5)
    assert [assumption.subject for assumption in network.assumptions] == ["channel order", "input size", "interpolation"]


def test_a_graph_of_other_weights_is_refused_by_its_first_tensor(cifar, tmp_path):
    path, net, _ = cifar
    arguments, _ = own.CASES[CIFAR]
    like = own.exported(own.SqueezeNet(**arguments, seed=9), tmp_path / "other.onnx", SIDE_PX)
    with pytest.raises(
        BadInput, match=r"is another network: it does not have the tensor `features.0.weight`, the nearest differs by"
    ):
        open_network(path, like=like)
    changed = own.SqueezeNet(**arguments)
    changed.load_state_dict(net.state_dict())
    with torch.no_grad():
        changed.classifier[1].bias[3] += 0.01
    with pytest.raises(BadInput, match=r"does not have the tensor `classifier.1.bias`"):
        open_network(path, like=own.exported(changed, tmp_path / "changed.onnx", SIDE_PX))


def test_what_the_user_tells_must_agree_with_the_graph(cifar, tmp_path):
    path, net, _ = cifar
    like = own.exported(net, tmp_path / "net.onnx", SIDE_PX)
    with pytest.raises(BadInput, match=r"`--conv1-pad 0` was asked for, but in `net.onnx` it is `--conv1-pad 3`"):
        open_network(path, like=like, structure=StructureChoice(conv1_pad=0))
    assert open_network(path, like=like, structure=StructureChoice(conv1_pad=3)).architecture.conv1_pad == 3
    with pytest.raises(BadInput, match="is not a file"):
        open_network(path, like=tmp_path / "none.onnx")


def test_a_graph_of_any_input_size_leaves_the_size_to_the_user(cifar, tmp_path):
    path, net, _ = cifar
    axes = {"input": {2: "height", 3: "width"}}
    like = own.exported(net, tmp_path / "net.onnx", SIDE_PX, input_names=["input"], dynamic_axes=axes)
    network = open_network(path, like=like, preprocess=CHOICE)
    assert network.graph.preprocess.crop_px == SIDE_PX
    assert network.architecture.conv1_pad == 3


class TwoColumns(torch.nn.Module):
    """No SqueezeNet: an ONNX file of it is read by its graph."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Conv2d(3, 8, 5, padding=2)
        self.last = torch.nn.Linear(8, 10)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)).mean((2, 3)))


def test_an_onnx_file_of_any_graph_is_held_against_logits_too(tmp_path):
    net = TwoColumns().eval()
    path = own.exported(net, tmp_path / "net.onnx", SIDE_PX)
    truth = preprocess_of(channel_order="bgr")
    assert open_network(path, expect=npz(tmp_path / "e.npz", pixels=PIXELS, logits=own.torch_logits(net, PIXELS, preprocess_of())))
    wrong = npz(tmp_path / "w.npz", pixels=PIXELS, logits=own.torch_logits(net, PIXELS, truth))
    with pytest.raises(BadInput, match="does not fit") as caught:
        open_network(path, expect=wrong)
    assert caught.value.hint == "it would fit with --channel-order bgr"
    with pytest.raises(BadInput, match=r"`input` of .* cannot be given to an ONNX file's graph"):
        open_network(path, expect=npz(tmp_path / "i.npz", input=np.zeros((1, 3, 38, 38), np.float32), logits=np.zeros((1, 10))))
    with pytest.raises(BadInput, match="is no state dict"):
        open_network(path, like=path)


class Unrectified(own.SqueezeNet):
    """As SqueezeNet 1.2 has it: no ReLU follows the squeeze."""

    def __init__(self):
        super().__init__()
        for module in self.modules():
            if isinstance(module, own.Fire):
                module.forward = lambda x, fire=module: torch.cat(
                    [torch.relu(fire.expand1x1(fire.squeeze(x))), torch.relu(fire.expand3x3(fire.squeeze(x)))], 1
                )


class Normed(torch.nn.Module):
    """No SqueezeNet: BatchNorm, an average pool inside, two linear layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.stem = torch.nn.Conv2d(3, 8, (5, 3), stride=2, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(8)
        self.mix = torch.nn.Conv2d(8, 12, 1)
        self.head = torch.nn.Linear(12, 10)
        for values, low, high in ((self.norm.running_mean, -0.5, 0.5), (self.norm.running_var, 0.5, 2), (self.norm.weight, 0.5, 2)):
            torch.nn.init.uniform_(values, low, high)

    def forward(self, x):
        x = torch.nn.functional.avg_pool2d(torch.relu(self.norm(self.stem(x))), 2)
        return self.head(torch.relu(self.mix(x)).mean((2, 3)))


@pytest.mark.parametrize("kind", [Unrectified, Normed, TwoColumns])
def test_any_other_network_is_its_graph_with_the_weights_of_the_state_dict(kind, tmp_path):
    net = kind().eval()
    state = net.state_dict()
    torch.save({"epoch": 3, "model": state}, tmp_path / "net.pth")
    network = open_network(tmp_path / "net.pth", like=own.exported(net, tmp_path / "graph.onnx", SIDE_PX))
    assert network.notes[0] == "its layers are put together as in `graph.onnx`"
    found, expected = FloatRunner(network.graph)(PIXELS), own.torch_logits(net, PIXELS, network.graph.preprocess)
    assert np.array_equal(found.argmax(1), expected.argmax(1))
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    key = next(key for key, value in state.items() if value.ndim > 1)
    torch.save({**state, key: state[key] * 1.01}, tmp_path / "other.pth")
    with pytest.raises(BadInput, match=r"`graph.onnx` is another network: "):
        open_network(tmp_path / "other.pth", like=tmp_path / "graph.onnx")


@pytest.mark.parametrize("kind", [Normed, TwoColumns])
def test_the_masks_of_any_pruned_network_are_multiplied_out(kind, tmp_path):
    net = kind().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            prune.l1_unstructured(module, "weight", amount=0.4)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    like = own.exported(net, tmp_path / "graph.onnx", SIDE_PX)
    network = open_network(tmp_path / "net.pth", like=like)
    assert f"multiplied {3 if kind is Normed else 2} pruned tensors by their masks" in network.notes
    found, expected = FloatRunner(network.graph)(PIXELS), own.torch_logits(net, PIXELS, network.graph.preprocess)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    state = net.state_dict()
    mask = next(key for key in state if key.endswith("weight_mask"))
    torch.save({**state, mask: torch.ones_like(state[mask])}, tmp_path / "other.pth")
    with pytest.raises(BadInput, match=r"`graph.onnx` is another network: "):
        open_network(tmp_path / "other.pth", like=like)


FOLDED = {
    "rgb": {},
    "bgr": {"channel_order": "bgr", "mean": CAFFE.mean, "std": (2.0, 3.0, 4.0)},
    "stretched": {"resize_mode": "stretch"},
}


@pytest.mark.parametrize("choice", FOLDED.values(), ids=list(FOLDED))
def test_our_own_fp32_file_tells_everything_too(case, choice, tmp_path):
    path, net, options = case
    choice = PreprocessChoice(**{"crop_px": SIDE_PX, "resize_px": 44, **choice})
    told = open_network(path, preprocess=choice, structure=StructureChoice(**options))
    like = export(told.graph, "onnx", FP32, tmp_path, name="net")[0].path
    network = open_network(path, like=like)
    assert network.graph.preprocess == told.graph.preprocess
    assert {assumption.subject for assumption in network.assumptions} <= {"pools"}
    found, expected = FloatRunner(network.graph)(PIXELS), own.torch_logits(net, PIXELS, network.graph.preprocess)
    assert np.array_equal(found.argmax(1), expected.argmax(1))
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_our_own_file_of_other_weights_or_other_pixels_is_refused(cifar, tmp_path):
    path, net, options = cifar
    onnx = pytest.importorskip("onnx")
    told = open_network(path, preprocess=CHOICE, structure=StructureChoice(**options))
    like = export(told.graph, "onnx", FP32, tmp_path, name="net")[0].path
    changed = own.SqueezeNet(**own.CASES[CIFAR][0])
    changed.load_state_dict(net.state_dict())
    with torch.no_grad():
        changed.classifier[1].bias[3] += 0.01
    with pytest.raises(BadInput, match=r"does not have the tensor `classifier.1.bias`"):
        open_network(own.saved(changed, tmp_path / "changed.pth"), like=like)
    for told_by_file in ('"mean": [1.0, 2.0, 3.0]', '"channel_order": "bgr"', '"crop_px": 40', "[", '"std": 1'):
        model = onnx.load(like)
        entry = next(entry for entry in model.metadata_props if entry.key == "squeeze_export.preprocess")
        entry.value = entry.value[:-1] + f", {told_by_file}}}"  # of two equal keys of JSON the later one counts
        onnx.save(model, tmp_path / "lying.onnx")
        with pytest.raises(BadInput):
            open_network(path, like=tmp_path / "lying.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(BadInput, match="is another network") as caught:
        open_network(path, like=tmp_path / "bare.onnx")
    assert "takes raw pixels, so its first layer may hold their mean and std" in caught.value.hint


class NormedFire(own.Fire):
    """BatchNorm after each convolution."""

    def __init__(self, inputs, squeeze, expand):
        super().__init__(inputs, squeeze, expand)
        self.squeeze_bn, self.expand1x1_bn, self.expand3x3_bn = (torch.nn.BatchNorm2d(n) for n in (squeeze, expand, expand))

    def forward(self, x):
        squeezed = torch.relu(self.squeeze_bn(self.squeeze(x)))
        parts = self.expand1x1_bn(self.expand1x1(squeezed)), self.expand3x3_bn(self.expand3x3(squeezed))
        return torch.relu(torch.cat(parts, 1))


def test_batch_norm_is_folded_on_both_sides(tmp_path):
    """torch's exporter folds it into the graph, and the reader of state dicts into the tensors."""
    net = own.SqueezeNet(kernel=7, padding=3, final_relu=False)
    plain = net.features
    fires = (NormedFire(12, 6, 8), NormedFire(16, 6, 8))
    net.features = torch.nn.Sequential(plain[0], torch.nn.BatchNorm2d(12), plain[1], plain[2], *fires)
    net.classifier[1] = torch.nn.Conv2d(16, 10, 1)
    net.train()
    with torch.no_grad():
        for _ in range(20):
            net(torch.randn(16, 3, SIDE_PX, SIDE_PX))
    net.eval()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    network = open_network(tmp_path / "net.pth", like=own.exported(net, tmp_path / "net.onnx", SIDE_PX))
    assert (network.architecture.conv1_pad, network.architecture.final_relu) == (3, False)
    assert {assumption.why for assumption in network.assumptions} == {"torchvision's preprocessing"}  # a graph shows an eps
    found, expected = FloatRunner(network.graph)(PIXELS), own.torch_logits(net, PIXELS, network.graph.preprocess)
    assert np.array_equal(found.argmax(1), expected.argmax(1))
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
