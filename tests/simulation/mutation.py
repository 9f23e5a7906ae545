"""The code under test with some lines changed, in memory only."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from .harness import Code

__all__ = ["mutant", "source_of"]

MODULES = ("store.rules", "store.memory", "policy", "refresh", "consent")
"""The modules that are compiled again, each after those that it imports."""

Edits = Mapping[str, Sequence[tuple[str, str]]]


def source_of(module: str) -> str:
    """Return the source of a module of the keeper."""
    found = importlib.util.find_spec(f"blink_oauth_keeper.{module}")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).read_text("utf-8")


def mutant(edits: Edits) -> Code:
    """Return the code under test with some lines changed.

    Args:
        edits: By module, texts that it contains exactly once, each with its replacement.
    """
    real = {name: importlib.import_module(f"blink_oauth_keeper.{name}") for name in MODULES}
    compiled: dict[str, ModuleType] = {}
    try:
        for name in MODULES:
            compiled[name] = _compile(name, edits.get(name, ()))
            _install(name, compiled[name])
    finally:
        for name, module in real.items():
            _install(name, module)
    return Code(
        compiled["refresh"].refresh,
        compiled["consent"].authorize,
        compiled["consent"].adopt,
        compiled["consent"].revoke,
        compiled["consent"].finish_revocation,
        compiled["store.memory"].MemoryTokenStore,
    )


def _compile(name: str, edits: Sequence[tuple[str, str]]) -> ModuleType:
    source = source_of(name)
    for old, new in edits:
        assert source.count(old) == 1, f"{name} does not contain exactly once: {old}"
        source = source.replace(old, new)
    module = ModuleType(f"blink_oauth_keeper.{name}")
    module.__package__ = module.__name__.rpartition(".")[0]
    sys.modules[module.__name__] = module
    exec(compile(source, f"<mutant of {name}>", "exec"), module.__dict__)
    return module


def _install(name: str, module: ModuleType) -> None:
    package, _, short = f"blink_oauth_keeper.{name}".rpartition(".")
    sys.modules[f"blink_oauth_keeper.{name}"] = module
    setattr(sys.modules[package], short, module)
