"""The ranking of layers to put back to float: a planted fault first, each step adds something, and something stays in integers."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from squeeze_export.analyze.mixed_precision import exact_effect, fewest_layers, power_won, ranking
from squeeze_export.analyze.results import ExactEffect, RankedLayer
from squeeze_export.analyze.sensitivity import Subject, gain, sensitivity_of, spared, subject_of
from squeeze_export.analyze.simulation import effects
from squeeze_export.graph.quantized import QuantizedGraph
from squeeze_export.measure.accuracy import compare
from squeeze_export.measure.statistics import paired_difference, wilson
from squeeze_export.quant.mixed import float_parts
from tests.quantized_networks import cut, drawn, images, net


@cache
def ranked(quantized: QuantizedGraph) -> tuple[Subject, tuple[RankedLayer, ...]]:
    graph, _, pixels = drawn()
    subject = subject_of(graph, quantized)
    sensitivity = sensitivity_of(subject, pixels[:2], threads=2)
    return subject, ranking(subject, sensitivity, pixels[:2], threads=2)


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
    found = ranking(subject, sensitivity_of(subject, pixels, threads=1), pixels, threads=1)
    names = [one.layer for one in found]
    assert "fire2/add" in names
    assert len(float_parts(subject.graph, names)[0]) < len(subject.graph.convs)


def test_a_table_without_error_is_ranked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the gains, none is divided by nothing."""
    _, quantized, _ = drawn()
    monkeypatch.setattr("squeeze_export.analyze.mixed_precision.gain", lambda *_: 0.0)
    _, found = ranked.__wrapped__(quantized)
    assert {one.gain_db for one in found} == {0.0}


def test_power_by_hand() -> None:
    assert power_won(np.inf) == 1
    assert power_won(0) == 0
    assert power_won(10) == pytest.approx(0.9)
    assert power_won(-3.0103) == pytest.approx(-1, abs=1e-4)


@pytest.mark.parametrize("most", [1, 2, 7, 18])
def test_the_fewest_by_halves(most: int) -> None:
    for enough in range(most + 1):
        asked: list[int] = []

        def effect(count: int, enough: int = enough, asked: list[int] = asked) -> ExactEffect:
            asked.append(count)
            return ExactEffect(30.0, 1.0, 0.0, 0.0, 1.0 if count >= enough else 2.0)

        assert fewest_layers(effect, most, 1.0) == (enough, True)
        assert {enough, max(enough - 1, 0)} <= set(asked)  # both sides of the answer were run
        assert len(asked) <= 2 + np.ceil(np.log2(most + 1))


def test_without_an_answer_the_lowest_bound_is_given() -> None:
    bounds = {0: 9.0, 1: 7.0, 2: 5.0, 3: 4.0, 4: 5.0}
    assert fewest_layers(lambda count: ExactEffect(30.0, 1.0, 0.0, 0.0, bounds[count]), 4, 1.0) == (3, False)
    assert fewest_layers(lambda count: ExactEffect(30.0, 1.0, 0.0, 0.0, 9.0), 4, 1.0) == (0, False)
    assert fewest_layers(lambda count: ExactEffect(30.0, 1.0, 0.0, 0.0, 9.0), 0, 1.0) == (0, False)


def test_a_drop_by_hand() -> None:
    labels = np.zeros(10, np.int64)
    reference = np.tile(np.asarray([[1.0, 0.0]], np.float32), (10, 1))
    logits = reference.copy()
    logits[:2] = (0.0, 1.0)
    effect = exact_effect(compare(reference, logits, labels))
    assert effect.drop_pp == pytest.approx(20)
    assert effect.drop_low_pp == pytest.approx(-100 * paired_difference(2, 0, 10).high)
    assert effect.drop_high_pp == pytest.approx(-100 * paired_difference(2, 0, 10).low)
    unlabelled = exact_effect(compare(reference, logits))
    assert (unlabelled.drop_pp, unlabelled.drop_high_pp) == (pytest.approx(20), pytest.approx(100 * (1 - wilson(8, 10).low)))
