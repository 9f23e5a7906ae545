"""The hook of PyInstaller: which files of the testing kit a frozen program needs."""

from __future__ import annotations

from pathlib import Path

__all__ = ["hook_folders"]


def hook_folders() -> list[str]:
    """Return the folders with hooks, as the entry point `pyinstaller40` expects it."""
    return [str(Path(__file__).parent)]
