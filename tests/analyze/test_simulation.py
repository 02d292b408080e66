"""Partly quantized runs: at both ends they are the runs that are known, and where they start changes nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from squeeze_export.analyze.sensitivity import Subject, spared, subject_of
from squeeze_export.analyze.simulation import Plan, effects
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.quantized import Quantization
from squeeze_export.graph.run import FloatRunner
from tests.quantized_networks import images, net, sqnr_db

PIXELS = images(3)


@cache
def subject(name: str = "bypass", scheme: str = "int8") -> Subject:
    return subject_of(*net(name, scheme))


def logits(of: Subject, plan: Plan, start: Plan | None = None) -> Any:
    runs = []
    for image in PIXELS:
        first = of.simulator(image, start) if start is not None else None
        runs.append(of.simulator.logits(of.simulator(image, plan, first)))
    return np.stack(runs)


def test_nothing_quantized_is_the_float_run() -> None:
    of = subject()
    assert (logits(of, Plan()) == FloatRunner(of.graph)(PIXELS)).all()


@pytest.mark.parametrize(("name", "scheme"), [("squeezenet1_1", "int8"), ("bypass", "int8"), ("bypass", "int8-symmetric")])
def test_everything_quantized_is_the_integer_run(name: str, scheme: str) -> None:
    of = subject(name, scheme)
    exact, simulated, plain = IntegerRunner(of.quantized)(PIXELS), logits(of, of.full), logits(of, Plan())
    # What float32 sums leave is far less than what the integers cost.
    assert sqnr_db(exact, simulated) > sqnr_db(plain, exact) + 8


def test_where_a_run_starts_changes_nothing() -> None:
    of = subject()
    for plan in (Plan(frozenset({of.layers[1]})), spared(of.full, outputs=[of.layers[2]]), of.full):
        fresh = logits(of, plan)
        assert (logits(of, plan, Plan()) == fresh).all()
        assert (logits(of, plan, of.full) == fresh).all()


def test_what_is_not_touched_is_taken_over() -> None:
    of = subject()
    plain = of.simulator(PIXELS[0], Plan())
    last = of.graph.convs[-1].name
    run = of.simulator(PIXELS[0], Plan(frozenset({last})), plain)
    changed = [name for name, values in run.values.items() if values is not plain.values[name]]
    assert changed == [last, of.graph.output.name]


def test_an_output_is_on_its_steps() -> None:
    of = subject()
    name = of.graph.convs[0].name
    coarse = replace(of.full.outputs[name], scale=of.full.outputs[name].scale / 4)
    values = of.simulator(PIXELS[0], Plan(outputs={name: coarse})).values[name]
    steps = values / np.float32(coarse.scale)
    assert np.abs(steps - np.rint(steps)).max() < 1e-3
    assert values.max() == pytest.approx((255 - coarse.zero_point) * coarse.scale)  # clipped at the end of the range


def test_effects_by_hand() -> None:
    of = subject()
    one = Plan(frozenset({of.graph.convs[0].name}))
    reference, found = logits(of, Plan()), logits(of, one)
    none, effect, whole = effects(
        of.simulator, of.full, [Plan(), one, of.full], PIXELS, threads=2, what="", progress=lambda what, done, total: None
    )
    assert (none.sqnr_db, none.agreement) == (np.inf, 1.0)
    assert effect.sqnr_db == pytest.approx(sqnr_db(reference, found))
    assert effect.agreement == (reference.argmax(1) == found.argmax(1)).mean()
    assert whole.sqnr_db < effect.sqnr_db


def test_a_quantization_is_by_value() -> None:
    """Plans compare quantizations by value: an equal one from elsewhere is no change."""
    of = subject()
    name = of.layers[0]
    q = of.full.outputs[name]
    start = of.simulator(PIXELS[0], Plan(outputs={name: q}))
    again = of.simulator(PIXELS[0], Plan(outputs={name: Quantization(q.scale, q.zero_point)}), start)
    assert again.values[name] is start.values[name]
