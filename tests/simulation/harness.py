"""What a schedule runs on: the code under test, the banks and the constants."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from attrs import define, field, frozen

from blink_oauth.context import Grant
from blink_oauth_keeper import consent
from blink_oauth_keeper.profile import AfterUncertainty, TargetProfile
from blink_oauth_keeper.refresh import refresh
from blink_oauth_keeper.steps import Job, Steps
from blink_oauth_keeper.store.memory import MemoryTokenStore
from blink_oauth_keeper.store.protocol import GrantKey
from blink_oauth_testing.sandbox.banks import Bank, BankPolicy, IssuedTokens, Refusal

__all__ = [
    "BANKS",
    "CLIENT_ID",
    "EPOCH",
    "KEY",
    "REAL",
    "USERNAME",
    "BankKind",
    "Code",
    "SimulatedBank",
    "new_bank",
    "secret",
]

CLIENT_ID = "CIDX0000000001"
USERNAME = "fake-customer"
KEY = GrantKey(CLIENT_ID, Grant("IIDX00001", USERNAME))
EPOCH = datetime(2030, 1, 1, tzinfo=UTC)


def secret(name: str) -> str:
    """Return a fake token that the trace shows by its name."""
    return f"fake-{name}"


@frozen
class Code:
    """The code under test: the real code or a mutant of it."""

    refresh: Callable[[Job], Steps]
    authorize: Callable[[Job], Steps]
    adopt: Callable[[Job], Steps]
    revoke: Callable[..., Steps]
    finish_revocation: Callable[[Job], Steps]
    store: type[MemoryTokenStore]


REAL = Code(
    refresh,
    consent.authorize,
    consent.adopt,
    consent.revoke,
    consent.finish_revocation,
    MemoryTokenStore,
)


@frozen(kw_only=True)
class BankKind:
    """A bank, and our profile of it.

    Attributes:
        name: Its name.
        policy: The bank's behaviour.
        profile: The bank's profile as the protocol has it.
        only_newest_pair_valid: Within the replay window, a replay invalidates the pair that the
            previous use has issued.
        revokes_single_tokens: A revocation ends one token and no token derived from it.
    """

    name: str
    policy: BankPolicy
    profile: TargetProfile = field(factory=TargetProfile)
    only_newest_pair_valid: bool = False
    revokes_single_tokens: bool = False

    @property
    def allows_replay(self) -> bool:
        """Whether a spent refresh token is accepted again, at least for a while."""
        return not self.policy.rotates or self.policy.replay_window > 0


def _policy(lifetime: float, **traits: object) -> BankPolicy:
    return BankPolicy(
        KEY.grant.target_id,
        "Simulated bank",
        access_token_lifetime=lifetime,
        repeats_refresh_token=True,
        **traits,  # type: ignore[arg-type]
    )


HOUR = 3_600.0
HOLD = TargetProfile(after_uncertainty=AfterUncertainty.HOLD)
BANKS = {
    kind.name: kind
    for kind in (
        BankKind(name="strict", policy=_policy(HOUR)),
        BankKind(name="replay window", policy=_policy(HOUR, replay_window=30.0)),
        BankKind(
            name="non-rotating",
            policy=_policy(HOUR, rotates=False),
            profile=TargetProfile(rotates=False),
        ),
        BankKind(name="hold after uncertainty", policy=_policy(HOUR), profile=HOLD),
        BankKind(name="short-lived", policy=_policy(8.0)),
        BankKind(name="short-lived with replay window", policy=_policy(8.0, replay_window=60.0)),
        BankKind(
            name="refusing", policy=_policy(HOUR, on_reuse="refuse"), revokes_single_tokens=True
        ),
        BankKind(
            name="newest pair only",
            policy=_policy(HOUR, replay_window=60.0),
            only_newest_pair_valid=True,
            revokes_single_tokens=True,
        ),
        BankKind(name="undeclared non-rotating", policy=_policy(8.0, rotates=False)),
        BankKind(name="one token per contract", policy=_policy(HOUR, one_token_per_contract=True)),
    )
}
"""The banks by name."""


@define(eq=False)
class SimulatedBank(Bank):
    """The sandbox's bank with two more traits, both harder on a client."""

    only_newest_pair_valid: bool = field(kw_only=True, default=False)
    revokes_single_tokens: bool = field(kw_only=True, default=False)
    _issued_for: dict[str, str] = field(init=False, factory=dict)

    def refresh(self, client_id: str, refresh_token: str, username: str) -> IssuedTokens | Refusal:
        issued = super().refresh(client_id, refresh_token, username)
        if (
            self.only_newest_pair_valid
            and isinstance(issued, IssuedTokens)
            and issued.refresh_token
        ):
            earlier = self._issued_for.get(refresh_token)
            if earlier is not None:
                self.expire(earlier)
            self._issued_for[refresh_token] = issued.refresh_token
        return issued

    def revoke(self, client_id: str, token: str, username: str | None) -> Refusal | None:
        if self.revokes_single_tokens and self.expire(token):
            return None
        return super().revoke(client_id, token, username)


def new_bank(kind: BankKind, now: Callable[[], float]) -> SimulatedBank:
    """Return a new bank of a kind."""
    count = 0

    def new_secret(what: str) -> str:
        nonlocal count
        # Both tokens of a pair have one number: the refresh token is made first.
        count += what == "refresh-token" or (what == "access-token" and not kind.policy.rotates)
        return secret(f"{what}-{count}")

    return SimulatedBank(
        kind.policy,
        now,
        new_secret,
        only_newest_pair_valid=kind.only_newest_pair_valid,
        revokes_single_tokens=kind.revokes_single_tokens,
    )


def moment(seconds: float) -> datetime:
    """Return the instant some seconds after the beginning."""
    return EPOCH + timedelta(seconds=seconds)
