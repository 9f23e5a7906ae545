"""The tables of version 1, and what a process of that version writes to them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Engine,
    Identity,
    Index,
    Insert,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    Update,
    insert,
    select,
    update,
)

from blink_oauth.tokens import Secret, Token
from blink_oauth_keeper import GrantKey
from blink_oauth_keeper.store.sql_tables import UtcDateTime
from blink_oauth_testing.store_contract.harness import ISSUED, days

__all__ = ["FirstVersion", "create_first_version", "first_metadata"]

sorted_text = String().with_variant(String(collation="C"), "postgresql")
row_number = BigInteger().with_variant(Integer(), "sqlite")
first_metadata = MetaData()


def key_columns() -> tuple[Column[str], ...]:
    """Return the columns of the key."""
    return tuple(
        Column(name, sorted_text, nullable=False) for name in ("client_id", "target_id", "username")
    )


grants = Table(
    "blink_oauth_grants",
    first_metadata,
    *key_columns(),
    Column("generation", BigInteger, nullable=False),
    Column("consent", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("sealed", Text),
    Column("key_id", String),
    Column("issued_at", UtcDateTime, nullable=False),
    Column("idle_until", UtcDateTime),
    Column("attempts", Integer, nullable=False),
    Column("owner", String),
    Column("lease_until", UtcDateTime),
    Column("pause_until", UtcDateTime),
    Column("error", String),
    Column("correlation_id", String),
    Column("updated_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("client_id", "target_id", "username", name="blink_oauth_grants_key"),
    Index("blink_oauth_grants_due", "client_id", "idle_until"),
)
journal = Table(
    "blink_oauth_journal",
    first_metadata,
    Column("id", row_number, Identity(), primary_key=True),
    *key_columns(),
    Column("generation", BigInteger, nullable=False),
    Column("consent", Integer, nullable=False),
    Column("origin", String, nullable=False),
    Column("sealed", Text, nullable=False),
    Column("key_id", String, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Index("blink_oauth_journal_grant", "client_id", "target_id", "username", "id"),
    Index("blink_oauth_journal_at", "at"),
)
history = Table(
    "blink_oauth_history",
    first_metadata,
    Column("id", row_number, Identity(), primary_key=True),
    *key_columns(),
    Column("at", UtcDateTime, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("event", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("detail", String),
    Column("actor", String, nullable=False),
    Column("correlation_id", String),
    Index("blink_oauth_history_grant", "client_id", "target_id", "username", "id"),
    Index("blink_oauth_history_at", "at"),
)
schema = Table(
    "blink_oauth_schema",
    first_metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
)


def create_first_version(engine: Engine) -> None:
    """Create the tables of version 1."""
    with engine.begin() as connection:
        first_metadata.create_all(connection)
        connection.execute(insert(schema).values(version=1))


class FirstVersion:
    """Writes as a process of version 1 does.

    Args:
        engine: The database.
        key: The key that it seals with.
    """

    def __init__(self, engine: Engine, key: Secret) -> None:
        self._engine = engine
        self._fernet = Fernet(key.reveal())
        derivation = HKDF(SHA256(), length=32, salt=None, info=b"blink-oauth key id")
        self._key_id = derivation.derive(key.reveal().encode()).hex()[:16]

    def put(self, key: GrantKey, token: Token) -> None:
        """Store the pair of a new consent, and move the pair that it replaces as it is."""
        row = self.row(key)
        if row is None:
            first = {"consent": 1, "issued_at": ISSUED, "idle_until": ISSUED + days(1)}
            values = self._values(key, 1, 1, token) | first | {"updated_at": ISSUED}
            self._execute(insert(grants).values(values | {"attempts": 0, "state": "active"}))
            return
        self._move(key, row, "replaced")
        generation, consent = int(str(row["generation"])) + 1, int(str(row["consent"])) + 1
        values = self._values(key, generation, consent, token) | {"consent": consent}
        self._update(key, values | {"attempts": 0, "state": "active", "lease_until": None})

    def claim(self, key: GrantKey) -> None:
        """Take the lease, which ends at once."""
        lease = {"owner": "fake-old-owner", "lease_until": ISSUED}
        self._update(key, lease | {"state": "refreshing", "attempts": grants.c.attempts + 1})

    def release(self, key: GrantKey, state: str) -> None:
        """Release the lease with a state."""
        self._update(key, {"state": state, "lease_until": None})

    def settle(self, key: GrantKey, token: Token) -> None:
        """Store the pair of a refresh."""
        row = self.row(key)
        assert row is not None
        generation, consent = int(str(row["generation"])) + 1, int(str(row["consent"]))
        values = self._values(key, generation, consent, token)
        self._update(key, values | {"attempts": 0, "state": "active", "lease_until": None})

    def journal(self, key: GrantKey, token: Token, origin: str) -> None:
        """Add a pair to the journal under the next generation."""
        row = self.row(key)
        assert row is not None
        generation, consent = int(str(row["generation"])) + 1, int(str(row["consent"]))
        values = self._values(key, generation, consent, token) | {"consent": consent}
        self._execute(insert(journal).values(values | {"origin": origin, "at": ISSUED}))

    def refuse(self, key: GrantKey) -> None:
        """Move the pair of the record into the journal as refused."""
        row = self.row(key)
        assert row is not None
        self._move(key, row, "refused")

    def row(self, key: GrantKey) -> Mapping[str, object] | None:
        """Return the row of a grant, or None."""
        with self._engine.connect() as connection:
            found = connection.execute(select(grants).where(*self._of(key))).mappings().first()
        return None if found is None else {str(name): value for name, value in found.items()}

    def _move(self, key: GrantKey, row: Mapping[str, object], origin: str) -> None:
        names = ("client_id", "target_id", "username", "generation", "consent", "sealed", "key_id")
        moved = {name: row[name] for name in names} | {"origin": origin, "at": ISSUED}
        self._execute(insert(journal).values(moved))

    def _update(self, key: GrantKey, values: Mapping[str, object]) -> None:
        self._execute(update(grants).where(*self._of(key)).values(dict(values)))

    def _execute(self, statement: Insert | Update) -> None:
        with self._engine.begin() as connection:
            connection.execute(statement)

    @staticmethod
    def _of(key: GrantKey) -> list[ColumnElement[bool]]:
        return [
            grants.c.client_id == key.client_id,
            grants.c.target_id == key.grant.target_id,
            grants.c.username == key.grant.username,
        ]

    def _values(
        self, key: GrantKey, generation: int, consent: int, token: Token
    ) -> dict[str, object]:
        assert token.refresh_token is not None
        names = {
            "client_id": key.client_id,
            "target_id": key.grant.target_id,
            "username": key.grant.username,
            "generation": generation,
        }
        members = names | {
            "consent": consent,
            "access_token": token.access_token.reveal(),
            "refresh_token": token.refresh_token.reveal(),
            "token_type": token.token_type,
            "expires_at": None if token.expires_at is None else token.expires_at.isoformat(),
            "scope": None if token.scope is None else sorted(token.scope),
            "oddities": sorted(token.oddities),
        }
        text = self._fernet.encrypt(json.dumps(members).encode()).decode()
        return names | {"sealed": text, "key_id": self._key_id}
