"""What holds for every test of a store: a failed assertion of the contract shows its values."""

from __future__ import annotations

import pytest

from keeper.store.databases import database_url, postgres, postgres_url

__all__ = ["database_url", "postgres", "postgres_url"]

pytest.register_assert_rewrite("blink_oauth_testing.store_contract")
