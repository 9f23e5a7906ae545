"""A token from consent to revocation: first with single calls of the client, then with the keeper.

The client is real and nothing in it is mocked: sockets on loopback, mutual TLS, and a sandbox that
validates every request against the contract. Client, manager and store use the sandbox's clock, so
that the demo can advance it by days.
"""

from __future__ import annotations

import logging
import stat
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from threading import Barrier

import httpx
from attrs import frozen

from blink_oauth import (
    BlinkError,
    BlinkOAuth,
    Grant,
    Outcome,
    Psu,
    Secret,
    Token,
    check_certificate,
    ssl_context,
)
from blink_oauth.context import request_headers
from blink_oauth_keeper import (
    AfterUncertainty,
    Event,
    EventName,
    SqlTokenStore,
    TargetProfile,
    TokenManager,
)
from blink_oauth_testing.sandbox import DEFAULT_BANKS, BankPolicy, Sandbox

DELAY = 0.1
"""Seconds that the bank `REPLAY_WINDOW` takes to respond."""
STRICT, NON_ROTATING, REPLAY_WINDOW = "IIDX00001", "IIDX00002", "IIDX00003"
BANKS = (
    *DEFAULT_BANKS,
    BankPolicy(REPLAY_WINDOW, "Musterbank Kulant", replay_window=60.0, response_delay=DELAY),
)
DESCRIPTIONS = {
    STRICT: "rotates refresh tokens, revokes all tokens when one is reused",
    NON_ROTATING: "does not rotate refresh tokens",
    REPLAY_WINDOW: "rotates refresh tokens, allows a replay for 60 s",
}
CUSTOMER = Psu(ip="203.0.113.7", user_agent="Mozilla/5.0 (demo)")
CALLERS = 50
HOUR = 3_600.0
TIMEOUT = 10.0
"""Seconds after which the demo fails if an event or a thread is missing."""
LOST_RESPONSE = "gateway-timeout-after"
SPENT = {Outcome.NOT_EXECUTED: "no", Outcome.REJECTED: "refused", Outcome.UNCERTAIN: "maybe"}


def heading(number: int, text: str) -> None:
    print(f"\n{number}. {text}")


def paragraph(text: str) -> None:
    print(textwrap.fill(text, width=100, initial_indent="   ", subsequent_indent="   "))


def expect_error(call: Callable[[], object]) -> BlinkError:
    """Return the error of a call that must fail."""
    try:
        call()
    except BlinkError as error:
        return error
    sys.exit("A call succeeded that should have failed.")


def current_time(sandbox: Sandbox) -> datetime:
    """Return the current time of the sandbox's clock."""
    return datetime.fromtimestamp(sandbox.clock(), UTC)


# The thin client


def consent(sandbox: Sandbox, grant: Grant) -> str:
    """Open the bank's page as the customer's browser does, and return the code."""
    state = f"demo-state-{grant.target_id}"
    page = sandbox.authorize_url(grant, sandbox.redirect_uri, state)
    callback = httpx.get(page, trust_env=False).next_request
    assert callback is not None
    assert callback.url.params["state"] == state
    return callback.url.params["code"]


def log_in(client_or_manager: BlinkOAuth | TokenManager, sandbox: Sandbox, grant: Grant) -> Token:
    """Exchange the code of a new consent for a pair; the manager also stores it."""
    if isinstance(client_or_manager, TokenManager):
        exchange = client_or_manager.authorize
    else:
        exchange = client_or_manager.exchange_code
    code = consent(sandbox, grant)
    return exchange(grant, code=code, redirect_uri=sandbox.redirect_uri, psu=CUSTOMER)


def refresh_token(token: Token) -> Secret:
    assert token.refresh_token is not None
    return token.refresh_token


def show_headers(sandbox: Sandbox) -> None:
    """Print the headers of the platform in the last exchange, as the sandbox recorded them."""
    exchange = sandbox.exchanges[-1]
    for arrow, headers in (("->", exchange.request_headers), ("<-", exchange.response_headers)):
        for name, value in headers:
            if name.startswith("X-") or name == "User-Agent":
                print(f"      {arrow} {name}: {value}")


def accounts(sandbox: Sandbox, http: httpx.Client, grant: Grant, token: Token) -> httpx.Response:
    """Request the customer's accounts with the token."""
    headers = request_headers(
        grant, CUSTOMER, user_agent="acme-books/3.2", correlation_id="demo-accounts"
    )
    headers["Authorization"] = f"Bearer {token.access_token.reveal()}"
    return http.get(sandbox.accounts_url, headers=headers)


def show_client(sandbox: Sandbox, blink: BlinkOAuth, http: httpx.Client) -> None:
    """Show each operation of the thin client."""
    strict, non_rotating = sandbox.grant(STRICT), sandbox.grant(NON_ROTATING)

    heading(2, "The thin client makes single calls: at two banks, a code is exchanged for a pair.")
    first = log_in(blink, sandbox, strict)
    show_headers(sandbox)
    other = log_in(blink, sandbox, non_rotating)
    for grant, token in ((strict, first), (non_rotating, other)):
        name = sandbox.banks[grant.target_id].policy.name
        paragraph(f"{name}: expires {token.expires_at:%Y-%m-%d %H:%M} UTC, {token.access_token}.")
    listed = accounts(sandbox, http, strict, first)
    names = [f"{account['name']} in {account['currency']}" for account in listed.json()["accounts"]]
    paragraph(f"The account list returns {listed.status_code}: {', '.join(names)}.")
    second = blink.refresh(strict, refresh_token(first))
    is_new = second.refresh_token != first.refresh_token
    paragraph(f"Refresh at the strict bank. New refresh token: {is_new}. The old one is spent.")

    heading(
        3, "Each error says where it came from, whether a token may be spent, and what to do next."
    )
    show_errors(failures(sandbox, blink, first, second, other))
    paragraph(
        "The sandbox recorded whether the last request was executed: "
        f"{sandbox.exchanges[-1].executed}."
    )
    third = blink.refresh(non_rotating, refresh_token(other))
    is_same = third.refresh_token == other.refresh_token
    paragraph(
        f"That bank does not rotate, so one more refresh works. Same refresh token: {is_same}."
    )

    heading(4, "Revocation: first the refresh token, then the access token.")
    for kind, meta in blink.revoke(non_rotating, third).items():
        paragraph(f"{kind.label}: {meta.status} from the {meta.source.lower()}")
    paragraph(
        f"The account list now returns {accounts(sandbox, http, non_rotating, third).status_code}."
    )


def failures(
    sandbox: Sandbox, blink: BlinkOAuth, first: Token, second: Token, other: Token
) -> Iterator[tuple[str, BlinkError]]:
    """Make calls that fail, and yield a description and the error of each."""
    strict, non_rotating = sandbox.grant(STRICT), sandbox.grant(NON_ROTATING)
    unknown = Grant(target_id="IIDX99999", username=strict.username)
    uri, not_rotated = sandbox.redirect_uri, refresh_token(other)
    exchange = partial(blink.exchange_code, strict, redirect_uri=uri, psu=CUSTOMER)
    refresh = blink.refresh

    yield "a bank that is not connected", expect_error(lambda: refresh(unknown, not_rotated))
    yield "a code that was not issued", expect_error(lambda: exchange(code="fake-code"))
    yield "the old refresh token again", expect_error(lambda: refresh(strict, refresh_token(first)))
    # Reuse detection: a token presented twice may be stolen, so the bank revokes all tokens.
    yield (
        "after that, even the new one",
        expect_error(lambda: refresh(strict, refresh_token(second))),
    )
    sandbox.fail("bad-gateway-html", target_id=NON_ROTATING)
    yield "502 with a page of HTML", expect_error(lambda: refresh(non_rotating, not_rotated))
    sandbox.fail(LOST_RESPONSE, target_id=NON_ROTATING)
    yield "504 although it was executed", expect_error(lambda: refresh(non_rotating, not_rotated))


def show_errors(failed: Iterator[tuple[str, BlinkError]]) -> None:
    row = "   {:<28}  {:<17}  {:<8}  {:<12}  {:<7}  {}".format
    print(row("what happened", "error", "source", "outcome", "spent?", "next"))
    for happened, error in failed:
        name, source, outcome = type(error).__name__, error.source or "-", error.outcome
        spent, then = SPENT[outcome], next_step(error)
        print(row(happened, name, source, outcome.upper(), spent, then))


def next_step(error: BlinkError) -> str:
    if error.needs_consent:
        return "ask for consent"
    if error.retryable:
        return "try again"
    return "replay once" if error.outcome is Outcome.UNCERTAIN else "fix the cause"


# The keeper


@frozen
class KeeperSetup:
    """The parts of every manager of the demo.

    Attributes:
        sandbox: The sandbox; its clock is also the clock of manager and store.
        blink: The client.
        folder: The folder of the store's file.
        key: The key that seals the tokens.
        events: The events of the managers, oldest first.
    """

    sandbox: Sandbox
    blink: BlinkOAuth
    folder: Path
    key: Secret
    events: SimpleQueue[Event]

    def open(self) -> TokenManager:
        """Return a new manager with a new store on the same file."""
        now = partial(current_time, self.sandbox)
        path = self.folder / "tokens.db"
        return TokenManager(
            self.blink,
            SqlTokenStore(f"sqlite:///{path}", keys=[self.key], clock=now),
            profiles={STRICT: TargetProfile(after_uncertainty=AfterUncertainty.HOLD)},
            on_event=self.events.put,
            clock=now,
            monotonic=self.sandbox.clock,
        )

    def advance(self, seconds: float) -> None:
        """Advance the clock that all parts share."""
        self.sandbox.clock.advance(seconds=seconds)

    def events_until(self, last: EventName) -> str:
        """Wait for an event, and return the names of all events since the last call."""
        names = [self.events.get(timeout=TIMEOUT).name]
        while names[-1] is not last:
            names.append(self.events.get(timeout=TIMEOUT).name)
        return ", ".join(names)

    def refreshes(self, grant: Grant) -> int:
        """Return the number of refresh requests for a bank that reached the sandbox."""
        forms = [seen.form for seen in self.sandbox.exchanges if seen.target_id == grant.target_id]
        return sum(("grant_type", "refresh_token") in form for form in forms)


def show_keeper(setup: KeeperSetup) -> None:
    """Show the keeper: store, single flight, early refresh, restart and lost responses."""
    replay_grant = setup.sandbox.grant(REPLAY_WINDOW)
    with setup.open() as manager:
        show_store(setup, manager, replay_grant)
        show_single_flight(setup, manager, replay_grant)
        show_early_refresh(setup, manager, replay_grant)
    before = setup.refreshes(replay_grant)
    with setup.open() as manager:
        heading(8, "A restart: manager and store are closed, new ones open the file.")
        token, generation = manager.get(replay_grant), manager.status(replay_grant).generation
        paragraph(
            f"get() returns generation {generation}, valid until {token.expires_at:%Y-%m-%d %H:%M} "
            f"UTC. Requests at the sandbox: {setup.refreshes(replay_grant) - before}."
        )
        show_lost_responses(setup, manager, replay_grant, setup.sandbox.grant(STRICT))


def show_store(setup: KeeperSetup, manager: TokenManager, grant: Grant) -> None:
    heading(
        5, "The keeper seals and stores tokens: authorize() exchanges the code and stores the pair."
    )
    token = log_in(manager, setup.sandbox, grant)
    mode = stat.filemode((setup.folder / "tokens.db").stat().st_mode)
    # The write-ahead log is a second file.
    content = b"".join(path.read_bytes() for path in setup.folder.iterdir())
    words = {
        "bank id": grant.target_id,
        "access token": token.access_token.reveal(),
        "refresh token": refresh_token(token).reveal(),
    }
    found = [f"{name}: {word.encode() in content}" for name, word in words.items()]
    paragraph(f"tokens.db ({mode}) holds {', '.join(found)}.")


def show_single_flight(setup: KeeperSetup, manager: TokenManager, grant: Grant) -> None:
    heading(6, "A single flight: one refresh for all callers.")
    before, barrier = setup.refreshes(grant), Barrier(CALLERS)
    setup.advance(25 * HOUR)

    def get(_: int) -> Token:
        barrier.wait(TIMEOUT)
        return manager.get(grant)

    with ThreadPoolExecutor(CALLERS) as pool:
        tokens = list(pool.map(get, range(CALLERS)))
    setup.events_until(EventName.REFRESHED)
    different = len({token.access_token for token in tokens})
    paragraph(
        f"25 hours later the token has expired, and {len(tokens)} threads call get(). Different "
        f"tokens returned: {different}. Requests at the sandbox: {setup.refreshes(grant) - before}."
    )


def show_early_refresh(setup: KeeperSetup, manager: TokenManager, grant: Grant) -> None:
    heading(
        7, "An early refresh: the stale token is served while it is refreshed in the background."
    )
    cached = manager.get(grant)
    setup.advance(22 * HOUR)
    began = time.perf_counter()
    served = manager.get(grant)
    took = 1_000 * (time.perf_counter() - began)
    events = setup.events_until(EventName.REFRESHED)
    paragraph(
        f"22 of 24 hours later get() returns the same token: {served == cached}. It took "
        f"{took:.1f} ms; the bank takes {1_000 * DELAY:.0f} ms. In the background: {events}. "
        f"Stored: generation {manager.status(grant).generation}."
    )


def show_lost_responses(
    setup: KeeperSetup, manager: TokenManager, replay_grant: Grant, strict: Grant
) -> None:
    heading(9, "An uncertain outcome: the bank issued a new pair, and its response was lost.")
    row = "   {:<17}  {:<10}  {:<13}  {:<7}  {}".format
    print(row("bank", "when", "state", "replays", "what you see"))

    def print_row(grant: Grant, when: str, first: int, seen: str) -> None:
        name = setup.sandbox.banks[grant.target_id].policy.name
        print(row(name, when, manager.status(grant).state, setup.refreshes(grant) - first, seen))

    def lose_response(grant: Grant) -> int:
        cached = manager.get(grant)
        setup.advance(22 * HOUR)
        setup.sandbox.fail(LOST_RESPONSE, target_id=grant.target_id)
        expect_error(lambda: manager.refresh(grant))
        setup.events_until(EventName.UNCERTAIN)
        first = setup.refreshes(grant)
        is_served = manager.get(grant) == cached
        print_row(grant, "the 504", first, f"get() serves the same token: {is_served}")
        setup.advance(30.0)
        return first

    first = lose_response(replay_grant)
    manager.get(replay_grant)
    print_row(replay_grant, "30 s later", first, setup.events_until(EventName.REFRESHED))

    log_in(manager, setup.sandbox, strict)
    first = lose_response(strict)
    error = expect_error(lambda: manager.refresh(strict))
    print_row(strict, "30 s later", first, type(error).__name__)
    setup.advance(2 * HOUR)
    error = expect_error(lambda: manager.get(strict))
    print_row(strict, "2 h later", first, f"{type(error).__name__}: {next_step(error)}")
    paragraph(
        "By default the keeper replays the refresh token once after the lease has ended, and never "
        "presents it a third time. The profile of the strict bank is HOLD: its reuse detection "
        "could revoke all tokens, so the replay waits until the access token is about to expire."
    )


def main() -> None:
    """Run the demo against a sandbox."""
    # The demo prints the events, so the keeper's log would repeat them.
    logging.getLogger("blink_oauth_keeper").addHandler(logging.NullHandler())
    print(__doc__)
    with Sandbox(banks=BANKS) as sandbox, TemporaryDirectory(prefix="blink-demo-") as folder:
        for target_id, text in DESCRIPTIONS.items():
            paragraph(f"{sandbox.banks[target_id].policy.name} ({target_id}): {text}")
        now = partial(current_time, sandbox)
        certificate = sandbox.client_certificate()
        heading(1, "The client certificate is checked offline, before anything is sent.")
        paragraph(str(check_certificate(certificate, now=now())))
        context = ssl_context(certificate, now=now())
        with (
            BlinkOAuth(sandbox.settings(), clock=now) as blink,
            httpx.Client(verify=context, trust_env=False) as http,
        ):
            show_client(sandbox, blink, http)
            key = SqlTokenStore.new_key()
            show_keeper(KeeperSetup(sandbox, blink, Path(folder), key, SimpleQueue()))
        exchanges, violations = len(sandbox.exchanges), len(sandbox.violations)
        print(f"\nDone: {exchanges} exchanges, {violations} violations of the contract.")


if __name__ == "__main__":
    main()
