"""The banks behind the platform: their policies, and a state machine for codes and tokens.

The state machine does no I/O; the time and new secrets come from arguments. The rules are those of
RFC 6749 sections 4.1.3 and 6, RFC 7009 and, for the reuse of refresh tokens, RFC 9700 section
4.14.2, with the replay that FAPI 2.0 allows. The lifetimes are those of bLink's page on token
management: 30 seconds for a code, 24 hours recommended for an access token, 30 days at least for a
refresh token.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Literal, get_args

from attrs import Attribute, define, field, frozen

from blink_oauth.arguments import require_seconds, require_type
from blink_oauth.errors import InvalidInputError
from blink_oauth.settings import REVOCATION_FIELDS, RevocationField

__all__ = []

ReuseReaction = Literal["revoke_family", "refuse"]
DAY = 86_400.0
TEXTS = {"target_id": '"IIDX00001"', "name": '"Musterbank"'}
"""Examples of the texts of a policy."""


def revocation_fields(names: Collection[RevocationField]) -> frozenset[RevocationField]:
    """Return the names of fields as a set.

    Raises:
        ValueError: They are no collection of names of optional fields.
    """
    is_list = isinstance(names, Collection) and not isinstance(names, str)
    if not is_list or any(name not in REVOCATION_FIELDS for name in names):
        raise ValueError(f"The fields of a revocation are: {', '.join(REVOCATION_FIELDS)}.")
    return frozenset(names)


def _text(_: object, attribute: Attribute[str], value: object) -> None:
    require_type(attribute.name, value, str, TEXTS[attribute.name])


def _boolean(_: object, attribute: Attribute[bool], value: object) -> None:
    require_type(attribute.name, value, bool, "True")


def _seconds(_: object, attribute: Attribute[float], value: object) -> None:
    require_seconds(attribute.name, value)


def _reaction(_: object, attribute: Attribute[ReuseReaction], value: object) -> None:
    if value not in get_args(ReuseReaction):
        known = ", ".join(get_args(ReuseReaction))
        raise InvalidInputError(f"The argument {attribute.name} must be one of: {known}.")


@frozen
class BankPolicy:
    """How one bank treats codes and tokens.

    Attributes:
        target_id: The id of the bank in bLink's directory.
        name: The name of the bank, for the consent page.
        rotates: Whether each refresh spends the refresh token and issues a new one.
        on_reuse: Whether the reuse of a spent refresh token revokes its whole token family, or is
            only refused.
        replay_window: Seconds from the first use in which a spent refresh token may be presented
            again. Each time the bank issues another pair, and the earlier pairs stay valid, because
            the bank does not know which response reached the client (FAPI 2.0 Security Profile
            section 5.3.2.1, note 1). Without rotation it has no effect.
        repeats_refresh_token: Whether a bank that does not rotate repeats the refresh token in the
            response to a refresh or leaves it out (RFC 6749 section 6).
        access_token_lifetime: Seconds; the platform recommends 24 hours.
        refresh_token_lifetime: Seconds, counted again from each refresh.
        code_lifetime: Seconds.
        one_token_per_contract: Whether a new consent for the same client and username revokes the
            earlier one without notice: its next refresh fails, and the accounts respond 401.
            bLink's page on token management says that some providers allow one token per contract;
            that a username has one contract is a simplification of the sandbox.
        consent_page: Whether the authorize endpoint shows consent pages instead of issuing a code
            immediately.
        refused_revocation_fields: The fields that the bank's form of a revocation does not have: it
            refuses a form with one of them. Of `token_type_hint`, `client_id` and `username`, none
            is certain (spec/README.md).
        response_delay: Seconds between the bank's decision on a token request and the response,
            also for a fault. They pass in real time, not on the sandbox's clock.

    Raises:
        InvalidInputError: A value has another type, or is none of those listed.
    """

    target_id: str = field(validator=_text)
    name: str = field(validator=_text)
    rotates: bool = field(default=True, validator=_boolean)
    on_reuse: ReuseReaction = field(default="revoke_family", validator=_reaction)
    replay_window: float = field(default=0.0, validator=_seconds)
    repeats_refresh_token: bool = field(default=False, validator=_boolean)
    access_token_lifetime: float = field(default=DAY, validator=_seconds)
    refresh_token_lifetime: float = field(default=30 * DAY, validator=_seconds)
    code_lifetime: float = field(default=30.0, validator=_seconds)
    one_token_per_contract: bool = field(default=False, validator=_boolean)
    consent_page: bool = field(default=False, validator=_boolean)
    refused_revocation_fields: frozenset[RevocationField] = field(
        default=frozenset(), converter=revocation_fields
    )
    response_delay: float = field(default=0.0, validator=_seconds)


# Visibly fake: the check digits of the IBANs are wrong.
ACCOUNTS = (
    {"id": "1", "iban": "CH0000000000000000001", "currency": "CHF", "name": "Fake current account"},
    {"id": "2", "iban": "CH0000000000000000002", "currency": "EUR", "name": "Fake savings account"},
)
"""The accounts of every customer of every bank."""

DEFAULT_BANKS = (
    BankPolicy("IIDX00001", "Musterbank Streng"),
    BankPolicy("IIDX00002", "Musterbank Mild", rotates=False),
)
"""A bank that rotates refresh tokens and revokes on reuse, and a bank that does not rotate."""


@frozen
class IssuedTokens:
    """A token response. `refresh_token` is None if the bank does not repeat it."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_in: int


@frozen
class Refusal:
    """An error code of RFC 6749 section 5.2 or RFC 6750 section 3.1, or `expired_token`."""

    error: str
    description: str


@define(eq=False)
class _Family:
    """All tokens issued from one authorization code."""

    client_id: str
    username: str
    # The ids of the accounts that the customer chose, or None for all.
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
    # Set for an access token that was revoked alone; a refresh token revokes its family.
    revoked: bool = False
    # Time of the first use, for a refresh token of a bank that rotates.
    spent_at: float | None = None


@define(eq=False)
class Bank:
    """A bank with the state of the codes and tokens it issued. Threads may share it.

    Attributes:
        policy: The policy; may be replaced while the sandbox runs.
        now: Returns the time in seconds.
        new_secret: Returns a new secret of a kind, for example `access-token`.
        refreshes: Number of executed refreshes, replays included.
        reuses: Number of presentations of a spent refresh token outside its replay window.
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
        """Delete all codes and tokens, zero the counts and restore the initial policy."""
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
    ) -> IssuedTokens | Refusal:
        """Exchange a code once; a second exchange revokes the tokens of the first one."""
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

    def refresh(self, client_id: str, refresh_token: str, username: str) -> IssuedTokens | Refusal:
        """Issue a new access token, and a new refresh token if the bank rotates."""
        with self._lock:
            entry = self._refresh_tokens.get(refresh_token)
            if entry is None or entry.family.client_id != client_id:
                return Refusal("invalid_grant", "The refresh token is unknown.")
            refusal = self._refresh_refusal(entry, username)
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

    def revoke(self, client_id: str, token: str, username: str | None) -> Refusal | None:
        """Revoke a token; an unknown token is no error (RFC 7009 section 2.2).

        A refresh token is revoked with its whole token family, an access token alone. A username
        that is given must be that of the consent.
        """
        with self._lock:
            is_refresh_token = token in self._refresh_tokens
            entry = self._refresh_tokens.get(token) or self._access_tokens.get(token)
            if entry is None:
                return None
            if entry.family.client_id != client_id:
                return Refusal("invalid_grant", "The token was issued to another client.")
            if username not in {None, entry.family.username}:
                return Refusal("invalid_grant", "The username is not that of the consent.")
            if is_refresh_token:
                entry.family.revoked = True
            else:
                entry.revoked = True
            return None

    def withdraw(self, client_id: str, username: str) -> None:
        """Revoke every consent of a customer for a client, as the customer can at the bank."""
        with self._lock:
            for family in self._contracts[client_id, username]:
                family.revoked = True

    def expire(self, refresh_token: str) -> bool:
        """Make a refresh token expire now, and return whether the token is a refresh token."""
        with self._lock:
            entry = self._refresh_tokens.get(refresh_token)
            if entry is not None:
                entry.expires_at = self.now()
            return entry is not None

    def check_access(self, client_id: str, access_token: str) -> Refusal | None:
        """Return why an access token is refused, or None if it is accepted."""
        entry = self._access_tokens.get(access_token)
        if entry is None or entry.family.client_id != client_id or _is_revoked(entry):
            return Refusal("invalid_token", "The access token is unknown or was revoked.")
        if entry.expires_at <= self.now():
            return Refusal("expired_token", "The access token has expired.")
        return None

    def accounts(self, access_token: str) -> frozenset[str] | None:
        """Return the ids of the accounts that a valid access token covers, or None for all."""
        return self._access_tokens[access_token].family.accounts

    def accepts(self, token: str) -> bool:
        """Return whether the bank would accept an access or refresh token now."""
        entry = self._refresh_tokens.get(token) or self._access_tokens.get(token)
        if entry is None or _is_revoked(entry) or self._replay_window_is_over(entry):
            return False
        return self.now() < entry.expires_at

    def _replay_window_is_over(self, entry: _Token) -> bool:
        """Return whether a token was spent and can no longer be replayed."""
        return entry.spent_at is not None and (
            self.now() >= entry.spent_at + self.policy.replay_window
        )

    def _refresh_refusal(self, entry: _Token, username: str) -> Refusal | None:
        is_reuse = self._replay_window_is_over(entry)
        self.reuses += is_reuse
        if entry.family.revoked:
            return Refusal("invalid_grant", "The consent was revoked.")
        if is_reuse:
            entry.family.revoked = self.policy.on_reuse == "revoke_family"
            ending = "; all are revoked." if entry.family.revoked else "."
            return Refusal("invalid_grant", f"The refresh token was used before{ending}")
        if entry.expires_at <= self.now():
            return Refusal("invalid_grant", "The refresh token has expired.")
        if entry.family.username != username:
            return Refusal("invalid_grant", "The username is not that of the consent.")
        return None

    def _new_family(
        self, client_id: str, username: str, accounts: frozenset[str] | None
    ) -> _Family:
        families = self._contracts[client_id, username]
        if self.policy.one_token_per_contract:
            for family in families:
                family.revoked = True
            families.clear()
        families.append(_Family(client_id, username, accounts))
        return families[-1]

    def _new_refresh_token(self, family: _Family) -> str:
        token = self.new_secret("refresh-token")
        self._refresh_tokens[token] = _Token(
            family, self.now() + self.policy.refresh_token_lifetime
        )
        return token

    def _issue(self, family: _Family, refresh_token: str | None) -> IssuedTokens:
        lifetime = self.policy.access_token_lifetime
        token = self.new_secret("access-token")
        self._access_tokens[token] = _Token(family, self.now() + lifetime)
        return IssuedTokens(token, refresh_token, int(lifetime))


def _is_revoked(token: _Token) -> bool:
    return token.revoked or token.family.revoked
