"""The torch modules: keys, shapes, batch-norm folding, bypass."""

import subprocess
import sys

import numpy as np
import pytest

from squeeze_export.errors import BadInput
from squeeze_export.nets.architecture import FAMILY, Architecture, Fire, architecture, tensor_shapes
from squeeze_export.nets.modules import build_module, fold_batch_norm, load_arrays

torch = pytest.importorskip("torch")

SMALL = Architecture("small", 8, 3, (Fire(4, 8, 8), Fire(4, 8, 8, "simple"), Fire(4, 12, 4, "complex")), (1,), 5)


@pytest.mark.parametrize("name", FAMILY)
def test_state_dict_is_torchvisions(name):
    arch = architecture(name, class_count=10)
    shapes = {key: tuple(value.shape) for key, value in build_module(arch).state_dict().items()}
    assert shapes == tensor_shapes(arch)
    assert list(shapes) == list(tensor_shapes(arch))


@pytest.mark.parametrize(("name", "input_px"), [("squeezenet1_1", 96), ("squeezenet1_0", 97)])
def test_logits_have_one_value_a_class(name, input_px):
    module = build_module(architecture(name, class_count=7)).eval()
    with torch.inference_mode():
        assert module(torch.zeros(2, 3, input_px, input_px)).shape == (2, 7)


def _trained_a_little(arch):
    """A module with batch norm whose running statistics and affine parameters are far from their start."""
    torch.manual_seed(3)
    module = build_module(arch, batch_norm=True)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if ".norm." in name:
                value.uniform_(0.5, 1.5) if name.endswith("weight") else value.uniform_(-0.5, 0.5)
        module.train()
        for _ in range(20):
            module(3 * torch.randn(4, 3, 40, 40) + 1)
    return module.eval()


@pytest.mark.parametrize("arch", [SMALL, architecture("squeezenet1_1", class_count=6)], ids=lambda arch: arch.name)
def test_folding_changes_no_answer(arch):
    module = _trained_a_little(arch)
    tensors = fold_batch_norm(module, arch)
    assert {key: value.shape for key, value in tensors.items()} == tensor_shapes(arch)
    assert {value.dtype for value in tensors.values()} == {np.dtype(np.float32)}
    plain = build_module(arch).eval()
    load_arrays(plain, tensors)
    pixels = 3 * torch.randn(4, 3, 48, 48) + 1
    with torch.inference_mode():
        expected, found = module(pixels), plain(pixels)
    assert expected.abs().max() > 0.1  # else the comparison says nothing
    assert (expected - found).abs().max() < 1e-4


def test_forgetting_the_running_mean_would_be_seen():
    """Negative control: the comparison above fails for a fold that is wrong."""
    module = _trained_a_little(SMALL)
    tensors = fold_batch_norm(module, SMALL)
    tensors["features.0.bias"] = tensors["features.0.bias"] * np.float32(0.9)
    plain = build_module(SMALL).eval()
    load_arrays(plain, tensors)
    pixels = 3 * torch.randn(4, 3, 48, 48) + 1
    with torch.inference_mode():
        assert (module(pixels) - plain(pixels)).abs().max() > 1e-3


def test_folding_a_plain_module_copies_it():
    module = build_module(SMALL)
    for key, value in fold_batch_norm(module, SMALL).items():
        np.testing.assert_array_equal(value, module.state_dict()[key].numpy())


def test_bypass_by_hand():
    """Zero weights leave only the bypass: simple gives the input back, complex its 1x1 convolution without a ReLU."""
    module = build_module(SMALL)
    simple, complex_ = module.get_submodule("features.4"), module.get_submodule("features.6")
    with torch.no_grad():
        for value in [*simple.parameters(), *complex_.parameters()]:
            value.zero_()
        complex_.bypass.bias.fill_(-2.0)
        pixels = torch.randn(1, 16, 5, 5)
        torch.testing.assert_close(simple(pixels), pixels)
        torch.testing.assert_close(complex_(pixels), torch.full((1, 16, 5, 5), -2.0))


def test_a_foreign_module_is_refused():
    with pytest.raises(BadInput, match="features"):
        fold_batch_norm(torch.nn.Conv2d(3, 3, 1), SMALL)
    with pytest.raises(BadInput, match="do not fit"):
        load_arrays(build_module(SMALL), {"features.0.weight": np.zeros((1, 1, 1, 1), np.float32)})


def test_the_file_imports_without_torch():
    code = "import sys; sys.modules['torch'] = None; import squeeze_export.nets.modules, squeeze_export.train.fit"
    subprocess.run([sys.executable, "-c", code], check=True)
