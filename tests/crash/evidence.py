"""What bank, store and processes saw of all token requests, and the rules it must follow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from attrs import field, frozen

from blink_oauth_keeper import EventName
from blink_oauth_testing.sandbox import Exchange

__all__ = ["Evidence", "TokenRequest", "token_request"]

STORED = frozenset({EventName.REFRESHED, EventName.AUTHORIZED})
UNKNOWN = frozenset({EventName.UNCERTAIN, EventName.LOST, EventName.AUTHORIZATION_FAILED})
"""Events that only a failure of the network or the store explains, and neither fails here."""


@frozen
class TokenRequest:
    """A token request that the bank has received.

    Attributes:
        process: The process that sent it.
        correlation_id: Its correlation id.
        secret: The fingerprint of its refresh token or code.
        is_refresh: Whether it presents a refresh token.
        accepted: Whether the bank issued a pair.
        at: When the bank received it, in seconds since the epoch.
    """

    process: str
    correlation_id: str
    secret: str
    is_refresh: bool
    accepted: bool
    at: float


def token_request(exchange: Exchange) -> TokenRequest:
    """Return the token request of an exchange. Its `User-Agent` names the process."""
    form, headers = dict(exchange.form), {k.lower(): v for k, v in exchange.request_headers}
    is_refresh = form["grant_type"] == "refresh_token"
    assert exchange.correlation_id
    return TokenRequest(
        process=headers["user-agent"],
        correlation_id=exchange.correlation_id,
        secret=form["refresh_token" if is_refresh else "code"],
        is_refresh=is_refresh,
        accepted=exchange.status == 200,
        at=exchange.at,
    )


@frozen(kw_only=True)
class Evidence:
    """What is known about all token requests of a run.

    Attributes:
        requests: The token requests, in the order in which the bank executed them.
        revoked: The fingerprints of the tokens in all revocation requests.
        histories: The events in the histories of all grants, by correlation id.
        reported: The events that the processes reported before they were killed, likewise.
        killed: When each killed process had ended, in seconds since the epoch.
        lease: Duration of a lease, in seconds.
    """

    requests: Sequence[TokenRequest]
    revoked: frozenset[str] = frozenset()
    histories: Mapping[str, frozenset[EventName]] = field(factory=dict)
    reported: Mapping[str, frozenset[EventName]] = field(factory=dict)
    killed: Mapping[str, float] = field(factory=dict)
    lease: float

    def is_interrupted(self, request: TokenRequest) -> bool:
        """Return whether the outcome of a request is in no store and was not reported."""
        id_ = request.correlation_id
        return id_ not in self.histories and id_ not in self.reported

    @property
    def interrupted(self) -> list[TokenRequest]:
        """The requests whose outcome is in no store and was not reported."""
        return [request for request in self.requests if self.is_interrupted(request)]

    @property
    def reuses(self) -> int:
        """The number of refresh tokens that were presented after the bank had accepted them."""
        return sum(1 for _ in self._reuses)

    @property
    def explained_reuses(self) -> int:
        """The number of these where a kill has interrupted the presentation before."""
        return sum(map(self.is_interrupted, self._reuses))

    @property
    def violations(self) -> list[str]:
        """Every way in which the run broke the promise, in words."""
        return [*self._lost_outcomes(), *self._early_presentations(), *self._refusals()]

    @property
    def _presentations(self) -> Mapping[str, list[TokenRequest]]:
        found = defaultdict(list)
        for request in self.requests:
            if request.is_refresh:
                found[request.secret].append(request)
        return found

    @property
    def _presented_again(self) -> Iterator[tuple[TokenRequest, TokenRequest]]:
        for presentations in self._presentations.values():
            yield from pairwise(presentations)

    @property
    def _reuses(self) -> Iterator[TokenRequest]:
        """Yield the presentation before each reuse."""
        for presentations in self._presentations.values():
            accepted = False
            for earlier, _ in pairwise(presentations):
                accepted |= earlier.accepted
                if accepted:
                    yield earlier

    def _lost_outcomes(self) -> Iterator[str]:
        for request in self.interrupted:
            killed = self.killed.get(request.process)
            if killed is None:
                yield f"lost although the process was not killed: {request}"
            elif abs(killed - request.at) > self.lease:
                yield f"lost although the process was not killed at that time: {request}"
        for correlation_id, events in self.reported.items():
            if events & STORED and not events & self.histories.get(correlation_id, frozenset()):
                yield f"reported as stored, but not stored: {correlation_id}"
            if events & UNKNOWN:
                yield f"unknown although the process was not killed: {correlation_id} {events}"

    def _early_presentations(self) -> Iterator[str]:
        for earlier, later in self._presented_again:
            if not self.is_interrupted(earlier):
                yield f"presented again after the outcome was known: {earlier}, {later}"
            elif later.at < self.killed.get(earlier.process, later.at):
                yield f"presented by two processes at the same time: {earlier}, {later}"

    def _refusals(self) -> Iterator[str]:
        again = {later for _, later in self._presented_again}
        for request in self.requests:
            excused = request in again or request.secret in self.revoked
            if not request.accepted and not (request.is_refresh and excused):
                yield f"refused although nothing had spent or revoked it: {request}"
