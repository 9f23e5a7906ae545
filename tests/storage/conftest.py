"""What holds for every test of a store: a failed assertion of the contract shows its values."""

from __future__ import annotations

import pytest

from storage.databases import postgres, postgres_url

__all__ = ["postgres", "postgres_url"]

pytest.register_assert_rewrite("blink_oauth.storage.contract")
