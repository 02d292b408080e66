"""Sessions: which runtime, which device, opened and closed."""

import pytest

from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.pipeline.sessions import RunOptions, entries_of, opened, runtime_for
from squeeze_export.registry import TARGETS
from squeeze_export.runtimes import runtime_named
from squeeze_export.targets import target_named

FAST = RunOptions(rounds=2)


@pytest.mark.parametrize("values", [{"threads": 0}, {"rounds": 0}, {"threads": -1}])
def test_run_options_are_checked(values):
    with pytest.raises(BadInput, match=r"--\w+ `-?\d` is below 1"):
        RunOptions(**values)


def test_runtime_for():
    for target in TARGETS:
        names = target_named(target).RUNTIMES
        assert [runtime_for(target, name) for name in (None, *names)] == [names[0], *names]
    with pytest.raises(BadInput, match="the runtime `litert` does not open onnx files") as caught:
        runtime_for("onnx", "litert")
    assert caught.value.hint == "one of: onnxruntime, torch"


def test_check_device():
    runtime_named("onnxruntime").check_device("cpu")
    with pytest.raises(Unavailable, match="ONNX Runtime has no device `abacus` here"):
        runtime_named("onnxruntime").check_device("abacus")


# --- opened


class Spy:
    """A session that counts how often it was closed."""

    def __init__(self):
        self.closed = 0

    def close(self):
        self.closed += 1


@pytest.fixture
def spies(monkeypatch):
    """Every session that is opened is a `Spy`; one for the target tflite is refused."""
    sessions = []

    def open_session(artifact, *, device, threads):
        if artifact.target == "tflite":
            raise Refused("no such operator")
        sessions.append(Spy())
        return sessions[-1]

    for name in ("onnxruntime", "tflite.litert"):
        monkeypatch.setattr(f"squeeze_export.runtimes.{name}.open_session", open_session)
    return sessions


def test_sessions_are_closed_whatever_happens(made, spies):
    entries = entries_of([made["onnx", "fp32"], made["onnx", "int8"]], RunOptions())
    with pytest.raises(KeyboardInterrupt), opened(entries, FAST):
        raise KeyboardInterrupt
    assert [spy.closed for spy in spies] == [1, 1]


def test_sessions_are_closed_where_a_later_one_cannot_be_opened(made, spies):
    entries = entries_of([made["onnx", "fp32"], made["tflite", "fp32"]], RunOptions())
    with pytest.raises(Refused), opened(entries, FAST):
        raise AssertionError("never entered")
    assert [spy.closed for spy in spies] == [1]


def test_failures_are_kept_where_asked(made, spies):
    entries = entries_of([made["tflite", "fp32"], made["onnx", "fp32"]], RunOptions())
    with opened(entries, FAST, alone=False) as outcomes:
        assert [(outcome.entry, outcome.session is None) for outcome in outcomes] == [(entries[0], True), (entries[1], False)]
    assert [outcome.failure and outcome.failure.message for outcome in outcomes] == ["no such operator", None]
    assert spies[0].closed == 1
