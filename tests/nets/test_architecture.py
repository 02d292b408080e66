"""The family as data, and its recognition from tensor shapes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeeze_export.errors import BadInput
from squeeze_export.nets.architecture import (
    FAMILY,
    Architecture,
    Fire,
    StructureChoice,
    architecture,
    architecture_from_json,
    fire_modules,
    tensor_shapes,
)
from squeeze_export.nets.recognition import check_architecture, check_shapes, named, recognize


def count(arch: Architecture) -> int:
    return sum(math.prod(shape) for shape in tensor_shapes(arch).values())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("squeezenet1_0", 1_248_424),
        ("squeezenet1_1", 1_235_496),  # torchvision's own count
        ("squeezenet1_0_simple_bypass", 1_248_424),
        ("squeezenet1_0_complex_bypass", 1_248_424 + 12_416 + 33_024 + 98_688 + 197_120),
    ],
)
def test_parameter_counts(name: str, parameters: int) -> None:
    assert count(FAMILY[name]) == parameters


def test_bypasses_are_those_of_figure_2() -> None:
    simple = FAMILY["squeezenet1_0_simple_bypass"].fires
    assert [f"fire{i + 2}" for i, fire in enumerate(simple) if fire.bypass == "simple"] == ["fire3", "fire5", "fire7", "fire9"]
    rich = FAMILY["squeezenet1_0_complex_bypass"].fires
    assert [fire.bypass for fire in rich] == ["complex", "simple"] * 4
    assert [FAMILY[name].bypass for name in FAMILY] == ["none", "none", "simple", "complex"]


def test_keys_are_torchvisions() -> None:
    keys = list(tensor_shapes(FAMILY["squeezenet1_1"]))
    assert keys[:4] == ["features.0.weight", "features.0.bias", "features.3.squeeze.weight", "features.3.squeeze.bias"]
    assert {int(key.split(".")[1]) for key in keys if key.startswith("features")} == {0, 3, 4, 6, 7, 9, 10, 11, 12}
    assert keys[-1] == "classifier.1.bias"


def test_names() -> None:
    assert architecture("squeezenet1_1", class_count=7).class_count == 7
    assert architecture("squeezenet1_1").class_count == 1000
    with pytest.raises(BadInput, match="squeezenet1_2"):
        architecture("squeezenet1_2")


def test_json_round_trip() -> None:
    for arch in FAMILY.values():
        assert architecture_from_json(arch.to_json()) == arch
    broken = FAMILY["squeezenet1_0"].to_json()
    broken["fires"][0]["bypass"] = "double"
    with pytest.raises(BadInput, match="double"):
        architecture_from_json(broken)
    del broken["fires"]
    with pytest.raises(BadInput, match="fires"):
        architecture_from_json(broken)


@pytest.mark.parametrize(
    "wrong",
    [{"count": 0}, {"base_e": 1}, {"incr_e": -1}, {"freq": 0}, {"pct3x3": 1.0}, {"pct3x3": 0.0}, {"squeeze_ratio": 0.0}],
)
def test_metaparameters_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadInput):
        fire_modules(**wrong)  # type: ignore[arg-type]


metaparameters = st.fixed_dictionaries(
    {
        "count": st.integers(1, 10),
        "base_e": st.integers(2, 300),
        "incr_e": st.integers(0, 200),
        "freq": st.integers(1, 4),
        "pct3x3": st.floats(0.01, 0.99),
        "squeeze_ratio": st.floats(0.001, 1.0),
    }
)


@given(metaparameters)
def test_fire_modules_follow_the_papers_formula(values: dict[str, float]) -> None:
    fires = fire_modules(**values)  # type: ignore[arg-type]
    assert len(fires) == values["count"]
    for i, fire in enumerate(fires):
        assert fire.channels == values["base_e"] + values["incr_e"] * (i // values["freq"])  # section 5.1: e_i
        assert min(fire.squeeze, fire.expand1x1, fire.expand3x3) >= 1
        assert abs(fire.expand3x3 - fire.channels * values["pct3x3"]) <= 1
        assert abs(fire.squeeze - fire.channels * values["squeeze_ratio"]) <= 1


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    bypass = draw(st.sampled_from(["none", "simple", "complex"]))
    fires = fire_modules(**draw(metaparameters), bypass=bypass)
    # A pool after the last module has no features behind it, and so leaves no gap in the names.
    pools = draw(st.sets(st.integers(0, max(len(fires) - 2, 0)), max_size=4)) if len(fires) > 1 else set()
    kernel = draw(st.sampled_from([3, 5, 7]))
    classes = draw(st.integers(1, 2000))
    return Architecture("squeezenet_custom", draw(st.integers(1, 128)), kernel, fires, tuple(sorted(pools)), classes)


@settings(max_examples=60)
@given(architectures())
def test_recognition_inverts_tensor_shapes(arch: Architecture) -> None:
    bypass = "simple" if arch.bypass == "simple" else None
    assert recognize(tensor_shapes(arch), structure=StructureChoice(bypass=bypass)) == named(arch)


@pytest.mark.parametrize("name", list(FAMILY))
def test_the_family_is_recognized_whatever_the_class_count(name: str) -> None:
    arch = architecture(name, class_count=12)
    assert recognize(tensor_shapes(arch), structure=StructureChoice(bypass="simple" if "simple" in name else None)) == arch
    assert recognize(tensor_shapes(arch), structure=StructureChoice(bypass=arch.bypass)) == arch


@pytest.mark.parametrize(
    ("name", "asked", "says"),
    [
        ("squeezenet1_0", "complex", "no `features.N.bypass.weight`"),
        ("squeezenet1_0_complex_bypass", "none", "hold bypass convolutions"),
        ("squeezenet1_0_complex_bypass", "simple", "hold bypass convolutions"),
    ],
)
def test_a_bypass_that_contradicts_the_tensors_is_refused(name: str, asked: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        recognize(tensor_shapes(FAMILY[name]), structure=StructureChoice(bypass=asked))  # type: ignore[arg-type]


def test_simple_bypass_needs_a_module_that_keeps_its_channels() -> None:
    arch = replace(FAMILY["squeezenet1_0"], fires=fire_modules(freq=1, count=3), pools_after=())
    with pytest.raises(BadInput, match="no Fire module keeps"):
        recognize(tensor_shapes(arch), structure=StructureChoice(bypass="simple"))


V1_0 = tensor_shapes(FAMILY["squeezenet1_0"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layer1.0.conv1.weight": (64, 3, 7, 7)}, "`layer1.0.conv1.weight` has no place"),
        ({"features.2.squeeze.weight": (8, 8, 1, 1)}, "`features.2.squeeze.weight` has no place"),
        ({"features.30.squeeze.weight": (8, 8, 1, 1)}, "no tensor `features.13.squeeze.weight`"),
        ({"features.0.weight": None}, "no tensor `features.0.weight`"),
        ({"features.0.weight": (96, 3, 7)}, "shape `96x3x7`"),
        ({"features.0.weight": (96, 3, 99, 99)}, "kernel of `99` px"),
        ({"features.0.weight": (96, 4, 7, 7)}, "shape `96x4x7x7` where this SqueezeNet needs `96x3x7x7`"),
        ({"features.0.weight": (0, 3, 7, 7)}, "none of them 0"),
        ({"features.0.bias": ()}, "`features.0.bias` has shape `scalar`"),
        ({"features.5.expand3x3.weight": None}, "no tensor `features.5.expand3x3.weight`"),
        ({"features.5.expand3x3.bias": None}, "no tensor `features.5.expand3x3.bias`"),
        ({"features.5.squeeze.weight": (32, 127, 1, 1)}, "`features.5.squeeze.weight` has shape `32x127x1x1`"),
        ({"features.5.bypass.bias": (256,)}, "`features.5.bypass.bias` has no place"),
        ({"classifier.1.weight": None}, "no tensor `classifier.1.weight`"),
        ({"classifier.1.weight": (1000, 512)}, "shape `1000x512`"),
        ({"classifier.6.weight": (1000, 4096)}, "`classifier.6.weight` has no place"),
    ],
)
def test_the_first_tensor_that_does_not_fit_is_named(change: dict[str, tuple[int, ...] | None], says: str) -> None:
    merged = {**V1_0, **change}
    with pytest.raises(BadInput, match=says):
        recognize({key: shape for key, shape in merged.items() if shape is not None})
    recognize(V1_0)  # the control


def test_without_fire_modules() -> None:
    shapes = {key: shape for key, shape in V1_0.items() if key.startswith(("features.0.", "classifier."))}
    with pytest.raises(BadInput, match=r"features\.3\.squeeze\.weight"):
        recognize(shapes)


def test_own_names_stay_and_false_ones_do_not() -> None:
    wide = replace(FAMILY["squeezenet1_0"], conv1_channels=97, name="wide-net.2")
    assert named(wide).name == "wide-net.2"
    for name in ("squeezenet1_0", "../../etc", "", ".hidden", "a" * 65):
        assert named(replace(wide, name=name)).name == "squeezenet_custom"
    assert named(replace(FAMILY["squeezenet1_1"], name="mine", class_count=3, conv10_pad=1)).name == "squeezenet1_1"


@pytest.mark.parametrize(
    "change",
    [
        {"conv1_channels": 0},
        {"conv1_kernel": 0},
        {"fires": ()},
        {"fires": (Fire(1, 0, 1),)},
        {"pools_after": (1, 1)},
        {"pools_after": (8,)},
        {"conv10_pad": 2},
        {"fires": (Fire(4, 8, 8, "simple"),), "pools_after": ()},
    ],
)
def test_stored_descriptions_are_checked(change: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="stored architecture"):
        check_architecture(replace(FAMILY["squeezenet1_0"], **change))  # type: ignore[arg-type]
    for arch in FAMILY.values():
        check_architecture(arch)


def test_superfluous_tensors_are_named() -> None:
    with pytest.raises(BadInput, match="`extra` has no place"):
        check_shapes(FAMILY["squeezenet1_0"], {**V1_0, "extra": (1,)})
