"""Fixtures for the tests of the stores; failed assertions of the contract show their values."""

from __future__ import annotations

import pytest

from keeper.store.databases import database_url, postgres, postgres_url

__all__ = ["database_url", "postgres", "postgres_url"]

pytest.register_assert_rewrite("blink_oauth_testing.store_contract")
