"""The ranking of layers to put back to float: a planted fault first, each step adds something, and something stays in integers."""

from __future__ import annotations

import numpy as np
import pytest

from squeeze_export.analyze import mixed_precision as module
from squeeze_export.analyze.mixed_precision import power_won, ranking
from squeeze_export.analyze.results import Ranked
from squeeze_export.analyze.sensitivity import Subject, gain, shares_of, spared, subject_of
from squeeze_export.analyze.simulation import effects
from squeeze_export.graph.quantized import QuantizedGraph
from squeeze_export.quant.mixed import float_parts
from tests.quantized_networks import cut, drawn, images, net


def ranked(quantized: QuantizedGraph) -> tuple[Subject, tuple[Ranked, ...]]:
    graph, _, pixels = drawn()
    subject = subject_of(graph, quantized)
    shares = shares_of(subject, pixels[:2], threads=2)
    return subject, ranking(subject, shares, pixels[:2], threads=2)


def test_a_planted_fault_comes_first() -> None:
    graph, quantized, _ = drawn()
    _, found = ranked(cut(quantized, graph, "fire4/squeeze1x1", 4))
    assert found[0].layer == "fire4/squeeze1x1"
    assert found[0].added == ("fire4/squeeze1x1", "fire4/expand1x1", "fire4/expand3x3")
    assert found[0].gain_db > 10
    assert (found[0].beside_count, found[1].beside_count) == (0, 1)  # beside the fault the others' gains were nothing
    assert max(one.gain_db for one in found[1:]) > 1


def test_two_planted_faults_come_first() -> None:
    graph, quantized, _ = drawn()
    broken = cut(cut(quantized, graph, "fire4/squeeze1x1", 4), graph, "fire7/squeeze1x1", 4)
    _, found = ranked(broken)
    assert {one.layer for one in found[:2]} == {"fire4/squeeze1x1", "fire7/squeeze1x1"}


def test_every_step_adds_something_and_leaves_something() -> None:
    graph, quantized, _ = drawn()
    subject, found = ranked(quantized)
    names = [one.layer for one in found]
    assert len(set(names)) == len(names) > 5
    for count, one in enumerate(found):
        before, after = (float_parts(subject.graph, names[:number])[0] for number in (count, count + 1))
        assert after - before == set(one.added)
        assert one.added
    assert len(after) < len(graph.convs)
    assert {conv.name for conv in graph.convs} - after  # and no layer is left that could go
    for layer in subject.layers:
        convs = float_parts(subject.graph, [*names, layer])[0]
        assert convs == after or len(convs) == len(graph.convs)


def test_gains_are_those_of_the_runs() -> None:
    _, quantized, pixels = drawn()
    subject, found = ranked(quantized)
    first = found[0]
    convs, tensors = float_parts(subject.graph, [first.layer])
    plans = [subject.full, spared(subject.full, weights=tuple(convs), outputs=tuple(tensors))]
    whole, alone = effects(subject.simulator, subject.full, plans, pixels[:2], threads=1, what="", progress=lambda *_: None)
    assert first.gain_db == pytest.approx(gain(alone, whole))


def test_an_addition_may_be_ranked_too() -> None:
    subject = subject_of(*net("bypass"))
    pixels = images()[:1]
    found = ranking(subject, shares_of(subject, pixels, threads=1), pixels, threads=1)
    names = [one.layer for one in found]
    assert "fire2/add" in names
    assert len(float_parts(subject.graph, names)[0]) < len(subject.graph.convs)


def test_a_table_without_error_is_ranked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the gains, none is divided by nothing."""
    _, quantized, _ = drawn()
    monkeypatch.setattr(module, "gain", lambda *_: 0.0)
    _, found = ranked(quantized)
    assert {one.gain_db for one in found} == {0.0}


def test_power_by_hand() -> None:
    assert power_won(np.inf) == 1
    assert power_won(0) == 0
    assert power_won(10) == pytest.approx(0.9)
    assert power_won(-3.0103) == pytest.approx(-1, abs=1e-4)
