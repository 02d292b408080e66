"""What the registry's modules offer is what the protocol asks for: an imported function of the same name would hide a default."""

from __future__ import annotations

import inspect
from types import FunctionType, SimpleNamespace

import pytest

from squeeze_export.registry import RUNTIMES
from squeeze_export.runtimes import Runtime, runtime_named

FUNCTIONS = [name for name, value in vars(Runtime).items() if isinstance(value, FunctionType) and not name.startswith("_")]


def strangers(runtime: object) -> list[str]:
    """The protocol's functions that cannot be called as it says."""
    found = []
    for name in FUNCTIONS:
        _, *asked = inspect.signature(getattr(Runtime, name)).parameters.values()
        given = inspect.signature(getattr(runtime, name))
        keywords = {p.name: None for p in asked if p.kind is p.KEYWORD_ONLY}
        try:
            given.bind(*[None for p in asked if p.kind is not p.KEYWORD_ONLY], **keywords)
        except TypeError:
            found.append(name)
    return found


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_can_be_called_as_the_protocol_says(name: str) -> None:
    assert strangers(runtime_named(name)) == []


def test_a_function_of_the_same_name_is_noticed() -> None:
    """Negative control."""
    real = runtime_named("tflite-micro")
    other = {name: getattr(real, name) for name in FUNCTIONS} | {"read_records": lambda nodes, tensors, inputs: None}
    assert strangers(SimpleNamespace(**other)) == ["read_records"]
