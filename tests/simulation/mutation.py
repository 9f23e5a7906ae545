"""The code under test with a line changed: in memory, never on disk."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from .harness import Code

__all__ = ["mutant", "source_of"]

CHAIN = ("store.rules", "store.memory", "policy", "refresh", "consent")
"""The modules that are made anew, each after those that it imports."""

Edits = Mapping[str, Sequence[tuple[str, str]]]


def source_of(module: str) -> str:
    """Return the source of a module of the keeper."""
    found = importlib.util.find_spec(f"blink_oauth_keeper.{module}")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).read_text("utf-8")


def mutant(edits: Edits) -> Code:
    """Build the code under test with some lines changed.

    Args:
        edits: By module, what stands there exactly once, and what is to stand there instead.
    """
    real = {name: importlib.import_module(f"blink_oauth_keeper.{name}") for name in CHAIN}
    made: dict[str, ModuleType] = {}
    try:
        for name in CHAIN:
            made[name] = _module(name, edits.get(name, ()))
            _install(name, made[name])
    finally:
        for name, module in real.items():
            _install(name, module)
    return Code(
        made["refresh"].refresh,
        made["consent"].authorize,
        made["consent"].revoke,
        made["store.memory"].MemoryTokenStore,
    )


def _module(name: str, edits: Sequence[tuple[str, str]]) -> ModuleType:
    source = source_of(name)
    for old, new in edits:
        assert source.count(old) == 1, f"{name} has not exactly once: {old}"
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
