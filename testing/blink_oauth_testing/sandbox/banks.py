"""The banks behind the platform: a policy each, a state machine for codes and tokens, and a clock.

The state machine reads no clock, makes no random number and touches no socket: time and secrets
are given. The rules are those of RFC 6749 sections 4.1.3 and 6, RFC 7009 and, for refresh tokens
used twice, RFC 9700 section 4.14.2, with the replay that FAPI 2.0 allows. The lifetimes are those
of bLink's page on token management: 30 seconds for a code, 24 hours recommended for an access
token, 30 days at least for a refresh token.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Literal

from attrs import define, field, frozen

__all__ = []

OnReuse = Literal["revoke_family", "refuse"]
DAY = 86_400.0


@frozen
class BankPolicy:
    """How one bank treats codes and tokens.

    Attributes:
        target_id: The id of the bank in bLink's directory.
        name: Its name, for the consent page.
        rotates: Each refresh spends the refresh token and gives a new one.
        on_reuse: What a second use of a spent refresh token does, besides being refused.
        replay_window: Seconds, counted from the first use, in which a spent refresh token may be
            presented again and gives a fresh pair each time. The pairs given before stay good: a
            window is there for the client whose answer was lost, and the bank cannot tell which of
            its answers arrived (FAPI 2.0 Security Profile section 5.3.2.1, note 1). Without
            rotation it means nothing.
        repeats_refresh_token: A bank that does not rotate repeats the refresh token in the answer
            to a refresh; otherwise it leaves it out (RFC 6749 section 6).
        access_token_lifetime: Seconds; the platform recommends 24 hours.
        refresh_token_lifetime: Seconds; counted anew from each refresh.
        code_lifetime: Seconds.
        one_token_per_contract: A new consent of the same client and username ends the one before,
            and tells nobody: the next refresh fails, and the accounts answer 401. bLink's page on
            token management says that some providers allow one token per contract; that one
            username has one contract is the sandbox's own simplification.
        consent_page: The authorize endpoint asks a person, instead of giving a code at once.
        response_delay: Seconds that pass between the bank's decision on a token request and the
            answer, be it right or a fault. They really pass, whatever the sandbox's clock says.
    """

    target_id: str
    name: str
    rotates: bool = True
    on_reuse: OnReuse = "revoke_family"
    replay_window: float = 0.0
    repeats_refresh_token: bool = False
    access_token_lifetime: float = DAY
    refresh_token_lifetime: float = 30 * DAY
    code_lifetime: float = 30.0
    one_token_per_contract: bool = False
    consent_page: bool = False
    response_delay: float = 0.0


# Obviously made up: the country's check digits do not match.
ACCOUNTS = (
    {"id": "1", "iban": "CH0000000000000000001", "currency": "CHF", "name": "Fake current account"},
    {"id": "2", "iban": "CH0000000000000000002", "currency": "EUR", "name": "Fake savings account"},
)
"""The accounts of every customer of every bank."""

DEFAULT_BANKS = (
    BankPolicy("IIDX00001", "Musterbank Streng"),
    BankPolicy("IIDX00002", "Musterbank Mild", rotates=False),
)
"""One bank that rotates and revokes on reuse, one whose refresh token stays the same."""


@frozen
class Issued:
    """A token response. `refresh_token` is absent where the bank does not repeat it."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_in: int


@frozen
class Refusal:
    """An error in the words of RFC 6749 section 5.2 or RFC 6750 section 3.1."""

    error: str
    description: str


@define(eq=False)
class _Family:
    """Everything that grew out of one authorization code."""

    client_id: str
    username: str
    # The ids of the accounts that were chosen, or None for all.
    accounts: frozenset[str] | None = None
    revoked: bool = False


@define(eq=False)
class _Code:
    client_id: str
    username: str
    redirect_uri: str
    expires_at: float
    accounts: frozenset[str] | None = None
    family: _Family | None = None


@define(eq=False)
class _Token:
    family: _Family
    expires_at: float
    # Revoked on its own, for an access token; a refresh token takes its family along.
    ended: bool = False
    # When it was first used, for a refresh token of a bank that rotates.
    spent_at: float | None = None


@define(eq=False)
class Bank:
    """One bank: what it issued and what of that is still good. Threads may share it.

    Args:
        policy: How it behaves; may be replaced while the sandbox runs.
        now: Returns the time in seconds.
        new_secret: Makes a value from the kind of secret, for example `access-token`.

    Attributes:
        refreshes: How many refreshes it has executed, replays included.
        reuses: How often a refresh token was presented that was spent and not to be replayed.
    """

    policy: BankPolicy
    now: Callable[[], float]
    new_secret: Callable[[str], str]
    refreshes: int = field(init=False, default=0)
    reuses: int = field(init=False, default=0)
    _first_policy: BankPolicy = field(init=False)
    _codes: dict[str, _Code] = field(init=False, factory=dict, repr=False)
    _access_tokens: dict[str, _Token] = field(init=False, factory=dict, repr=False)
    _refresh_tokens: dict[str, _Token] = field(init=False, factory=dict, repr=False)
    _contracts: dict[tuple[str, str], list[_Family]] = field(
        init=False, factory=lambda: defaultdict(list), repr=False
    )
    _lock: threading.Lock = field(init=False, factory=threading.Lock, repr=False)

    def __attrs_post_init__(self) -> None:
        self._first_policy = self.policy

    def reset(self) -> None:
        """Forget every code, token and count, and return to the policy of the start."""
        with self._lock:
            self.policy = self._first_policy
            self.refreshes = self.reuses = 0
            for table in (self._codes, self._access_tokens, self._refresh_tokens, self._contracts):
                table.clear()

    def issue_code(
        self,
        client_id: str,
        redirect_uri: str,
        username: str,
        accounts: frozenset[str] | None = None,
    ) -> str:
        """Issue an authorization code, as after the PSU's consent (RFC 6749 section 4.1.2)."""
        code = self.new_secret("authorization-code")
        expires_at = self.now() + self.policy.code_lifetime
        self._codes[code] = _Code(client_id, username, redirect_uri, expires_at, accounts)
        return code

    def exchange_code(
        self, client_id: str, code: str, redirect_uri: str, username: str
    ) -> Issued | Refusal:
        """Exchange a code once; a second time revokes what the first one issued."""
        with self._lock:
            entry = self._codes.get(code)
            if entry is None or entry.client_id != client_id:
                return Refusal("invalid_grant", "The authorization code is unknown.")
            if entry.family is not None:
                entry.family.revoked = True
                return Refusal("invalid_grant", "The code was used before; its tokens are revoked.")
            if entry.expires_at <= self.now():
                return Refusal("invalid_grant", "The authorization code has expired.")
            if entry.redirect_uri != redirect_uri:
                return Refusal("invalid_grant", "The redirect URI is not the authorized one.")
            if entry.username != username:
                return Refusal("invalid_grant", "The username is not that of the authorization.")
            entry.family = self._new_family(client_id, username, entry.accounts)
            return self._issue(entry.family, self._new_refresh_token(entry.family))

    def refresh(self, client_id: str, refresh_token: str, username: str) -> Issued | Refusal:
        """Issue a new access token, and a new refresh token where the bank rotates."""
        with self._lock:
            entry = self._refresh_tokens.get(refresh_token)
            if entry is None or entry.family.client_id != client_id:
                return Refusal("invalid_grant", "The refresh token is unknown.")
            refusal = self._refused_refresh(entry, username)
            if refusal is not None:
                return refusal
            self.refreshes += 1
            if self.policy.rotates:
                if entry.spent_at is None:
                    entry.spent_at = self.now()
                return self._issue(entry.family, self._new_refresh_token(entry.family))
            entry.expires_at = self.now() + self.policy.refresh_token_lifetime
            repeated = refresh_token if self.policy.repeats_refresh_token else None
            return self._issue(entry.family, repeated)

    def revoke(self, client_id: str, token: str, username: str) -> Refusal | None:
        """Revoke one token; an unknown one is no error (RFC 7009 section 2.2).

        A refresh token takes its whole consent with it, an access token only itself.
        """
        with self._lock:
            is_refresh_token = token in self._refresh_tokens
            entry = self._refresh_tokens.get(token) or self._access_tokens.get(token)
            if entry is None:
                return None
            if entry.family.client_id != client_id:
                return Refusal("invalid_grant", "The token was issued to another client.")
            if entry.family.username != username:
                return Refusal("invalid_grant", "The username is not that of the consent.")
            if is_refresh_token:
                entry.family.revoked = True
            else:
                entry.ended = True
            return None

    def withdraw(self, client_id: str, username: str) -> None:
        """Revoke every consent that a customer has given a client, as at the bank itself."""
        with self._lock:
            for family in self._contracts[client_id, username]:
                family.revoked = True

    def expire(self, refresh_token: str) -> bool:
        """Let a refresh token expire now, and nothing else; tell whether it is one."""
        with self._lock:
            entry = self._refresh_tokens.get(refresh_token)
            if entry is not None:
                entry.expires_at = self.now()
            return entry is not None

    def check_access(self, client_id: str, access_token: str) -> Refusal | None:
        """Tell why an access token opens nothing, or None where it does."""
        entry = self._access_tokens.get(access_token)
        if entry is None or entry.family.client_id != client_id or not _is_good(entry):
            return Refusal("invalid_token", "The access token is unknown or was revoked.")
        if entry.expires_at <= self.now():
            return Refusal("expired_token", "The access token has expired.")
        return None

    def accounts(self, access_token: str) -> frozenset[str] | None:
        """Return the ids of the accounts that a good access token opens, or None for all."""
        return self._access_tokens[access_token].family.accounts

    def accepts(self, token: str) -> bool:
        """Tell whether an access or refresh token would be accepted now."""
        entry = self._refresh_tokens.get(token) or self._access_tokens.get(token)
        if entry is None or not _is_good(entry) or self._is_used_up(entry):
            return False
        return self.now() < entry.expires_at

    def _is_used_up(self, entry: _Token) -> bool:
        """Tell whether a token was spent and may not be replayed any more."""
        return entry.spent_at is not None and (
            self.now() >= entry.spent_at + self.policy.replay_window
        )

    def _refused_refresh(self, entry: _Token, username: str) -> Refusal | None:
        used_up = self._is_used_up(entry)
        self.reuses += used_up
        if entry.family.revoked:
            return Refusal("invalid_grant", "The consent was revoked.")
        if used_up:
            entry.family.revoked = self.policy.on_reuse == "revoke_family"
            what_else = "; all are revoked." if entry.family.revoked else "."
            return Refusal("invalid_grant", f"The refresh token was used before{what_else}")
        if entry.expires_at <= self.now():
            return Refusal("invalid_grant", "The refresh token has expired.")
        if entry.family.username != username:
            return Refusal("invalid_grant", "The username is not that of the consent.")
        return None

    def _new_family(
        self, client_id: str, username: str, accounts: frozenset[str] | None
    ) -> _Family:
        before = self._contracts[client_id, username]
        if self.policy.one_token_per_contract:
            for family in before:
                family.revoked = True
            before.clear()
        before.append(_Family(client_id, username, accounts))
        return before[-1]

    def _new_refresh_token(self, family: _Family) -> str:
        token = self.new_secret("refresh-token")
        self._refresh_tokens[token] = _Token(
            family, self.now() + self.policy.refresh_token_lifetime
        )
        return token

    def _issue(self, family: _Family, refresh_token: str | None) -> Issued:
        lifetime = self.policy.access_token_lifetime
        token = self.new_secret("access-token")
        self._access_tokens[token] = _Token(family, self.now() + lifetime)
        return Issued(token, refresh_token, int(lifetime))


def _is_good(token: _Token) -> bool:
    return not token.ended and not token.family.revoked


# Beyond any date that a calendar knows; it keeps a slip of the pen from stopping the clock.
_FARTHEST = 1e11


@define
class Clock:
    """Tells the time, and can be put forward. Threads may share it.

    Args:
        source: Returns the seconds since the epoch that everything starts from.
        ahead: Seconds that it is ahead of its source.
    """

    source: Callable[[], float] = time.time
    ahead: float = 0.0
    _lock: threading.Lock = field(init=False, factory=threading.Lock, repr=False, eq=False)

    def __call__(self) -> float:
        """Return the seconds since the epoch."""
        return self.source() + self.ahead

    def advance(self, *, seconds: float) -> None:
        """Let time pass for codes and tokens.

        Args:
            seconds: How much; not below zero.

        Raises:
            ValueError: Time would run backwards, or out of every calendar.
        """
        if not 0 <= seconds <= _FARTHEST:
            raise ValueError("Time cannot run backwards, nor for ever.")
        with self._lock:
            self.ahead += seconds
