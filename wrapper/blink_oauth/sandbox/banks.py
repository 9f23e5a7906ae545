"""The banks behind the platform: a policy each, and a state machine for codes and tokens.

Nothing here reads a clock, makes a random number or touches a socket: time and secrets are given.
The rules are those of RFC 6749 sections 4.1.3 and 6, RFC 7009 and, for refresh tokens used twice,
RFC 9700 section 4.14.2. The lifetimes are those of bLink's page on token management: 30 seconds for
a code, 24 hours recommended for an access token, 30 days at least for a refresh token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from attrs import define, field, frozen

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
        repeats_refresh_token: A bank that does not rotate repeats the refresh token in the answer
            to a refresh; otherwise it leaves it out (RFC 6749 section 6).
        access_token_lifetime: Seconds; the platform recommends 24 hours.
        refresh_token_lifetime: Seconds; counted anew from each refresh.
        code_lifetime: Seconds.
        consent_page: The authorize endpoint asks a person, instead of giving a code at once.
    """

    target_id: str
    name: str
    rotates: bool = True
    on_reuse: OnReuse = "revoke_family"
    repeats_refresh_token: bool = False
    access_token_lifetime: float = DAY
    refresh_token_lifetime: float = 30 * DAY
    code_lifetime: float = 30.0
    consent_page: bool = False


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
    revoked: bool = False


@define(eq=False)
class _Code:
    client_id: str
    username: str
    redirect_uri: str
    expires_at: float
    family: _Family | None = None


@define(eq=False)
class _Token:
    family: _Family
    expires_at: float
    # Spent by rotation, for a refresh token; revoked on its own, for an access token.
    ended: bool = False


@define(eq=False)
class Bank:
    """One bank: what it issued and what of that is still good.

    Args:
        policy: How it behaves; may be replaced while the sandbox runs.
        now: Returns the time in seconds.
        new_secret: Makes a value from the kind of secret, for example `access-token`.
    """

    policy: BankPolicy
    now: Callable[[], float]
    new_secret: Callable[[str], str]
    _first_policy: BankPolicy = field(init=False)
    _codes: dict[str, _Code] = field(init=False, factory=dict, repr=False)
    _access_tokens: dict[str, _Token] = field(init=False, factory=dict, repr=False)
    _refresh_tokens: dict[str, _Token] = field(init=False, factory=dict, repr=False)

    def __attrs_post_init__(self) -> None:
        self._first_policy = self.policy

    def reset(self) -> None:
        """Forget every code and token, and return to the policy of the start."""
        self.policy = self._first_policy
        for table in (self._codes, self._access_tokens, self._refresh_tokens):
            table.clear()

    def issue_code(self, client_id: str, redirect_uri: str, username: str) -> str:
        """Issue an authorization code, as after the PSU's consent (RFC 6749 section 4.1.2)."""
        code = self.new_secret("authorization-code")
        expires_at = self.now() + self.policy.code_lifetime
        self._codes[code] = _Code(client_id, username, redirect_uri, expires_at)
        return code

    def exchange_code(
        self, client_id: str, code: str, redirect_uri: str, username: str
    ) -> Issued | Refusal:
        """Exchange a code once; a second time revokes what the first one issued."""
        entry = self._codes.get(code)
        if entry is None or entry.client_id != client_id:
            return Refusal("invalid_grant", "The authorization code is unknown.")
        if entry.family is not None:
            entry.family.revoked = True
            return Refusal("invalid_grant", "The code was used before; its tokens are revoked.")
        if entry.expires_at <= self.now():
            return Refusal("invalid_grant", "The authorization code has expired.")
        if entry.redirect_uri != redirect_uri:
            return Refusal("invalid_grant", "The redirect URI is not that of the authorization.")
        if entry.username != username:
            return Refusal("invalid_grant", "The username is not that of the authorization.")
        entry.family = _Family(client_id, username)
        return self._issue(entry.family, self._new_refresh_token(entry.family))

    def refresh(self, client_id: str, refresh_token: str, username: str) -> Issued | Refusal:
        """Issue a new access token, and a new refresh token where the bank rotates."""
        entry = self._refresh_tokens.get(refresh_token)
        if entry is None or entry.family.client_id != client_id:
            return Refusal("invalid_grant", "The refresh token is unknown.")
        refusal = self._refused_refresh(entry, username)
        if refusal is not None:
            return refusal
        if self.policy.rotates:
            entry.ended = True
            return self._issue(entry.family, self._new_refresh_token(entry.family))
        entry.expires_at = self.now() + self.policy.refresh_token_lifetime
        repeated = refresh_token if self.policy.repeats_refresh_token else None
        return self._issue(entry.family, repeated)

    def revoke(self, client_id: str, token: str, username: str) -> Refusal | None:
        """Revoke one token; an unknown one is no error (RFC 7009 section 2.2).

        A refresh token takes its whole consent with it, an access token only itself.
        """
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
        entry.ended = True
        return None

    def check_access(self, client_id: str, access_token: str) -> Refusal | None:
        """Tell why an access token opens nothing, or None where it does."""
        entry = self._access_tokens.get(access_token)
        if entry is None or entry.family.client_id != client_id or not _is_good(entry):
            return Refusal("invalid_token", "The access token is unknown or was revoked.")
        if entry.expires_at <= self.now():
            return Refusal("expired_token", "The access token has expired.")
        return None

    def is_alive(self, token: str) -> bool:
        """Tell whether an access or refresh token would be accepted now."""
        entry = self._refresh_tokens.get(token) or self._access_tokens.get(token)
        return entry is not None and _is_good(entry) and self.now() < entry.expires_at

    def _refused_refresh(self, entry: _Token, username: str) -> Refusal | None:
        if entry.family.revoked:
            return Refusal("invalid_grant", "The consent was revoked.")
        if entry.ended:
            entry.family.revoked = self.policy.on_reuse == "revoke_family"
            what_else = "; all are revoked." if entry.family.revoked else "."
            return Refusal("invalid_grant", f"The refresh token was used before{what_else}")
        if entry.expires_at <= self.now():
            return Refusal("invalid_grant", "The refresh token has expired.")
        if entry.family.username != username:
            return Refusal("invalid_grant", "The username is not that of the consent.")
        return None

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
