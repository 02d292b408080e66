"""Registries: names and modules, defaults that are filled in, and what other distributions add."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Protocol

import pytest

from squeeze_export.errors import BadInput, Refused
from squeeze_export.registry import entry_named, filled, registered


class Greeter(Protocol):
    """A protocol with everything: what must be there, and what may be left out."""

    NAME: str
    MARK: str = "!"

    @abstractmethod
    def word(self) -> str:
        """Has no default."""

    def greet(self, whom: str) -> str:
        """By default, with the module's own word."""
        return f"{self.word()} {whom}{self.MARK}"


OWN = {"plain": "greeter_plain"}


def module(**values: object) -> ModuleType:
    made = ModuleType("made")
    vars(made).update(values)
    return made


def test_what_a_module_leaves_out_is_filled_in() -> None:
    small = filled(module(NAME="small", word=lambda: "hello"), Greeter)
    assert (small.NAME, small.MARK, small.greet("you")) == ("small", "!", "hello you!")


def test_what_a_module_has_is_its_own() -> None:
    own = module(NAME="own", word=lambda: "hello", greet=lambda whom: f"ahoy {whom}", MARK="?")
    assert (filled(own, Greeter).greet("you"), filled(own, Greeter).MARK) == ("ahoy you", "?")
    own.greet = lambda whom: "patched"  # the module stays what is asked
    assert filled(own, Greeter).greet("you") == "patched"


@pytest.mark.parametrize("values", [{"NAME": "x"}, {"word": str}])
def test_a_module_that_lacks_something_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(Refused, match=r"`made` is no greeter: it lacks `(word|NAME)`"):
        filled(module(**values), Greeter)


def test_what_nobody_has_is_no_attribute() -> None:
    assert not hasattr(filled(module(NAME="x", word=str), Greeter), "other")


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another distribution, as pip lays it down: a module, and its entry points."""
    folder = tmp_path / "site"
    info = folder / "greeters-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greeters\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[squeeze_export.greeters]\nfrench = greeter_french\nplain = greeter_french\nbroken = greeter_broken\n"
    )
    (folder / "greeter_french.py").write_text('NAME = "french"\n\n\ndef word():\n    return "bonjour"\n')
    (folder / "greeter_broken.py").write_text("raise OSError('no such library')\n")
    (folder / "greeter_plain.py").write_text('NAME = "plain"\n\n\ndef word():\n    return "hello"\n')
    monkeypatch.syspath_prepend(str(folder))
    yield
    for name in ("greeter_french", "greeter_broken", "greeter_plain"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("distribution")
def test_another_distribution_adds_an_entry() -> None:
    assert registered(OWN, "greeter") == {"plain": "greeter_plain", "french": "greeter_french", "broken": "greeter_broken"}
    assert entry_named("french", OWN, "greeter", Greeter).greet("toi") == "bonjour toi!"
    assert entry_named("plain", OWN, "greeter", Greeter).NAME == "plain"  # ours stays ours


@pytest.mark.usefixtures("distribution")
def test_a_broken_module_of_others_is_refused() -> None:
    with pytest.raises(Refused, match="the greeter `broken` breaks when it is imported: OSError: no such library"):
        entry_named("broken", OWN, "greeter", Greeter)


def test_an_unknown_name_is_refused() -> None:
    assert registered(OWN, "greeter") == OWN
    with pytest.raises(BadInput, match="no greeter is called `latin`") as caught:
        entry_named("latin", OWN, "greeter", Greeter)
    assert caught.value.hint == "did you mean `plain`? one of: plain"
    with pytest.raises(BadInput) as caught:
        entry_named("xyz", OWN, "greeter", Greeter)
    assert caught.value.hint == "one of: plain"
