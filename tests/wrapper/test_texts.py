"""Texts of files are read without an import, which a fork in another thread would block."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from blink_oauth.texts import decoded

before = set(sys.modules)
texts = [decoded(data) for data in (b"fake", "fake".encode("utf-8-sig"), "fake".encode("utf-16"))]
print(texts, sorted(set(sys.modules) - before))
"""


def test_reading_a_text_imports_no_module() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['fake', 'fake', 'fake'] []"
