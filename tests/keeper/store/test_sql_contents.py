"""The names of grants are read without a key, from every database."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from blink_oauth import Grant
from blink_oauth_keeper import GrantKey, SqlTokenStore
from blink_oauth_keeper.errors import StoreError
from blink_oauth_keeper.store.sql_contents import grant_names
from blink_oauth_testing.store_contract.harness import ISSUED, note, pair

CLIENT = "CIDX0000000002"
GRANTS = ("IIDX00001/a%", "IIDX00001/ab", "IIDX00001/b/c", "IIDX00002/A", "IIDX00002/a")


def test_the_names_of_the_grants_of_a_client_are_sorted_and_limited(database_url: str) -> None:
    with closing(SqlTokenStore(database_url, keys=[SqlTokenStore.new_key()])) as store:
        store.create_schema()
        for name in reversed(GRANTS):
            put(store, CLIENT, name)
        put(store, "CIDX0000000003", "IIDX00001/other")

    def names(beginning: str, limit: int = 10) -> list[str]:
        found = grant_names(database_url, CLIENT, beginning=beginning, limit=limit)
        return list(found)

    assert names("") == list(GRANTS)
    assert names("", limit=2) == ["IIDX00001/a%", "IIDX00001/ab"]
    # The beginning is no pattern: a row that only looks like it takes no place of the limit.
    assert names("IIDX00001/a%") == ["IIDX00001/a%"]
    assert names("IIDX0000_/", limit=1) == []
    assert names("%b", limit=1) == []
    assert names("IIDX00001/b/", limit=1) == ["IIDX00001/b/c"]
    assert names("IIDX00002/a", limit=1) == ["IIDX00002/a"]
    assert grant_names(database_url, "CIDX0000000004", beginning="", limit=10) == []


def put(store: SqlTokenStore, client_id: str, name: str) -> None:
    """Store a pair of a grant."""
    target_id, _, username = name.partition("/")
    key = GrantKey(client_id, Grant(target_id, username))
    store.put(key, pair("a"), issued_at=ISSUED, idle_until=ISSUED, note=note())


def test_a_database_without_a_store_has_no_names_and_stays_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "tokens.db"
    with pytest.raises(StoreError):
        grant_names(file, CLIENT, beginning="", limit=10)
    assert not file.exists()
