"""The life of a token, from consent to revocation: first call by call, then with the keeper.

Nothing inside the client is mocked: real sockets on loopback, mutual TLS, and a local platform that
holds every request to the contract. Its clock is also that of client, manager and store, so that
days pass at once.
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

from blink_oauth import BlinkError, BlinkOAuth, Grant, Outcome, Psu, Secret, Token
from blink_oauth.context import request_headers
from blink_oauth.tls import check_certificate, ssl_context
from blink_oauth_keeper import (
    AfterUncertainty,
    Event,
    EventName,
    SqlTokenStore,
    TargetProfile,
    TokenManager,
)
from blink_oauth_testing.sandbox import DEFAULT_BANKS, BankPolicy, Sandbox

SLOWNESS = 0.1
"""Seconds that the patient bank takes to answer."""
STRICT, LENIENT, PATIENT = "IIDX00001", "IIDX00002", "IIDX00003"
BANKS = (
    *DEFAULT_BANKS,
    BankPolicy(PATIENT, "Musterbank Kulant", replay_window=60.0, response_delay=SLOWNESS),
)
HABITS = {
    STRICT: "rotates refresh tokens, takes a second use of one for theft",
    LENIENT: "keeps the refresh token the same",
    PATIENT: "rotates refresh tokens, allows a replay for 60 s",
}
CUSTOMER = Psu(ip="203.0.113.7", user_agent="Mozilla/5.0 (demo)")
CALLERS = 50
HOUR = 3_600.0
PATIENCE = 10.0
"""Seconds after which the demo fails for want of an answer that should be there."""
LOST_ANSWER = "gateway-timeout-after"
SPENT = {Outcome.NOT_EXECUTED: "no", Outcome.REJECTED: "refused", Outcome.UNCERTAIN: "maybe"}


def heading(number: int, text: str) -> None:
    print(f"\n{number}. {text}")


def say(text: str) -> None:
    print(textwrap.fill(text, width=100, initial_indent="   ", subsequent_indent="   "))


def expect_error(call: Callable[[], object]) -> BlinkError:
    """Return the error that a call is meant to end with."""
    try:
        call()
    except BlinkError as error:
        return error
    sys.exit("A call succeeded that should have failed.")


def moment(sandbox: Sandbox) -> datetime:
    """Return the present moment on the sandbox's clock."""
    return datetime.fromtimestamp(sandbox.clock(), UTC)


# The thin client


def consent(sandbox: Sandbox, grant: Grant) -> str:
    """Be the customer's browser: open the bank's page and come back with a code."""
    state = f"demo-state-{grant.target_id}"
    page = sandbox.authorize_url(grant, sandbox.redirect_uri, state)
    callback = httpx.get(page, trust_env=False).next_request
    assert callback is not None
    assert callback.url.params["state"] == state
    return callback.url.params["code"]


def log_in(blink: BlinkOAuth | TokenManager, sandbox: Sandbox, grant: Grant) -> Token:
    """Exchange the code of a fresh consent for tokens; the manager also stores them."""
    exchange = blink.authorize if isinstance(blink, TokenManager) else blink.exchange_code
    code = consent(sandbox, grant)
    return exchange(grant, code=code, redirect_uri=sandbox.redirect_uri, psu=CUSTOMER)


def refresh_token(token: Token) -> Secret:
    assert token.refresh_token is not None
    return token.refresh_token


def show_headers(sandbox: Sandbox) -> None:
    """Show the platform's own headers in the last exchange, as the platform recorded them."""
    exchange = sandbox.exchanges[-1]
    for arrow, headers in (("->", exchange.request_headers), ("<-", exchange.response_headers)):
        for name, value in headers:
            if name.startswith("X-") or name == "User-Agent":
                print(f"      {arrow} {name}: {value}")


def accounts(sandbox: Sandbox, http: httpx.Client, grant: Grant, token: Token) -> httpx.Response:
    """Use the token: list the customer's accounts."""
    headers = request_headers(
        grant, CUSTOMER, user_agent="acme-books/3.2", correlation_id="demo-accounts"
    )
    headers["Authorization"] = f"Bearer {token.access_token.reveal()}"
    return http.get(sandbox.accounts_url, headers=headers)


def show_client(sandbox: Sandbox, blink: BlinkOAuth, http: httpx.Client) -> None:
    """Walk the way of the thin client once."""
    strict, lenient = sandbox.grant(STRICT), sandbox.grant(LENIENT)

    heading(2, "The thin client makes single calls. At two banks, a code becomes a pair of tokens.")
    first = log_in(blink, sandbox, strict)
    show_headers(sandbox)
    other = log_in(blink, sandbox, lenient)
    for grant, token in ((strict, first), (lenient, other)):
        name = sandbox.banks[grant.target_id].policy.name
        say(f"{name}: expires {token.expires_at:%Y-%m-%d %H:%M} UTC, {token.access_token}.")
    answer = accounts(sandbox, http, strict, first)
    names = [f"{account['name']} in {account['currency']}" for account in answer.json()["accounts"]]
    say(f"The account list answers {answer.status_code}: {', '.join(names)}.")
    second = blink.refresh(strict, refresh_token(first))
    is_new = second.refresh_token != first.refresh_token
    say(f"Refresh at the strict bank. New refresh token: {is_new}. The old one is spent.")

    heading(3, "Errors are told apart: who made them, what they may have spent, what to do next.")
    show_errors(failures(sandbox, blink, first, second, other))
    say(f"The sandbox knows of the last one: executed was {sandbox.exchanges[-1].executed}.")
    third = blink.refresh(lenient, refresh_token(other))
    is_same = third.refresh_token == other.refresh_token
    say(f"That bank does not rotate, so one more refresh works. Same refresh token: {is_same}.")

    heading(4, "Revocation: first the refresh token, then the access token.")
    for kind, meta in blink.revoke(lenient, third).items():
        say(f"{kind.label}: {meta.status} from the {meta.source.lower()}")
    say(f"The account list now answers {accounts(sandbox, http, lenient, third).status_code}.")


def failures(
    sandbox: Sandbox, blink: BlinkOAuth, first: Token, second: Token, other: Token
) -> Iterator[tuple[str, BlinkError]]:
    """Make one call after the other that fails; yield what happened, and the error."""
    strict, lenient = sandbox.grant(STRICT), sandbox.grant(LENIENT)
    unknown = Grant(target_id="IIDX99999", username=strict.username)
    uri, lasting = sandbox.redirect_uri, refresh_token(other)
    exchange = partial(blink.exchange_code, strict, redirect_uri=uri, psu=CUSTOMER)
    refresh = blink.refresh

    yield "a bank that is not connected", expect_error(lambda: refresh(unknown, lasting))
    yield "a code nobody issued", expect_error(lambda: exchange(code="fake-code"))
    yield "the old refresh token again", expect_error(lambda: refresh(strict, refresh_token(first)))
    # Whoever presents a token twice may have stolen it, so the bank ends the whole consent.
    yield (
        "after that, even the new one",
        expect_error(lambda: refresh(strict, refresh_token(second))),
    )
    sandbox.fail("bad-gateway-html", target_id=LENIENT)
    yield "502 with a page of HTML", expect_error(lambda: refresh(lenient, lasting))
    sandbox.fail(LOST_ANSWER, target_id=LENIENT)
    yield "504 although the bank did it", expect_error(lambda: refresh(lenient, lasting))


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
class Desk:
    """What every manager of the demo is made from.

    Attributes:
        sandbox: The platform; its clock is the clock of manager and store, too.
        blink: The client.
        folder: Where the file of the store is.
        key: What the store seals with.
        events: What the managers told, oldest first.
    """

    sandbox: Sandbox
    blink: BlinkOAuth
    folder: Path
    key: Secret
    events: SimpleQueue[Event]

    def open(self) -> TokenManager:
        """Open a manager and its store."""
        now = partial(moment, self.sandbox)
        path = self.folder / "tokens.db"
        return TokenManager(
            self.blink,
            SqlTokenStore(f"sqlite:///{path}", keys=[self.key], clock=now),
            profiles={STRICT: TargetProfile(after_uncertainty=AfterUncertainty.HOLD)},
            on_event=self.events.put,
            clock=now,
            monotonic=self.sandbox.clock,
        )

    def let_pass(self, seconds: float) -> None:
        """Let time pass for everything on the one clock."""
        self.sandbox.clock.advance(seconds=seconds)

    def events_until(self, last: EventName) -> str:
        """Wait for an event, and return the names of all since the last time."""
        names = [self.events.get(timeout=PATIENCE).name]
        while names[-1] is not last:
            names.append(self.events.get(timeout=PATIENCE).name)
        return ", ".join(names)

    def refreshes(self, grant: Grant) -> int:
        """Count the refresh requests for a bank that reached the sandbox."""
        forms = [seen.form for seen in self.sandbox.exchanges if seen.target_id == grant.target_id]
        return sum(("grant_type", "refresh_token") in form for form in forms)


def show_keeper(desk: Desk) -> None:
    """Keep tokens through a day, a restart and a lost answer."""
    patient = desk.sandbox.grant(PATIENT)
    with desk.open() as manager:
        show_store(desk, manager, patient)
        show_single_flight(desk, manager, patient)
        show_early_refresh(desk, manager, patient)
    before = desk.refreshes(patient)
    with desk.open() as manager:
        heading(8, "A restart: manager and store are closed, new ones open the file.")
        token, generation = manager.get(patient), manager.status(patient).generation
        say(
            f"get() returns generation {generation}, good until {token.expires_at:%Y-%m-%d %H:%M} "
            f"UTC. Requests at the sandbox: {desk.refreshes(patient) - before}."
        )
        show_lost_answers(desk, manager, patient, desk.sandbox.grant(STRICT))


def show_store(desk: Desk, manager: TokenManager, grant: Grant) -> None:
    heading(
        5, "The keeper stores tokens, sealed: authorize() exchanges the code and stores the pair."
    )
    token = log_in(manager, desk.sandbox, grant)
    mode = stat.filemode((desk.folder / "tokens.db").stat().st_mode)
    # The write-ahead log lies beside the file.
    content = b"".join(path.read_bytes() for path in desk.folder.iterdir())
    words = {
        "bank id": grant.target_id,
        "access token": token.access_token.reveal(),
        "refresh token": refresh_token(token).reveal(),
    }
    found = [f"{name}: {word.encode() in content}" for name, word in words.items()]
    say(f"tokens.db ({mode}) holds {', '.join(found)}.")


def show_single_flight(desk: Desk, manager: TokenManager, grant: Grant) -> None:
    heading(6, "One refresh, whoever asks.")
    before, together = desk.refreshes(grant), Barrier(CALLERS)
    desk.let_pass(25 * HOUR)

    def ask(_: int) -> Token:
        together.wait(PATIENCE)
        return manager.get(grant)

    with ThreadPoolExecutor(CALLERS) as pool:
        tokens = list(pool.map(ask, range(CALLERS)))
    desk.events_until(EventName.REFRESHED)
    different = len({token.access_token for token in tokens})
    say(
        f"25 hours later the token has expired, and {len(tokens)} threads call get(). Different "
        f"tokens returned: {different}. Requests at the sandbox: {desk.refreshes(grant) - before}."
    )


def show_early_refresh(desk: Desk, manager: TokenManager, grant: Grant) -> None:
    heading(7, "An early refresh: the present token is served, the next one fetched meanwhile.")
    present = manager.get(grant)
    desk.let_pass(22 * HOUR)
    began = time.perf_counter()
    served = manager.get(grant)
    took = 1_000 * (time.perf_counter() - began)
    told = desk.events_until(EventName.REFRESHED)
    say(
        f"22 of 24 hours later get() returns the present token: {served == present}. It took "
        f"{took:.1f} ms; the bank takes {1_000 * SLOWNESS:.0f} ms. In the background: {told}. "
        f"Stored: generation {manager.status(grant).generation}."
    )


def show_lost_answers(desk: Desk, manager: TokenManager, patient: Grant, strict: Grant) -> None:
    heading(9, "An uncertain outcome: the bank made a new pair, and its answer was lost.")
    row = "   {:<17}  {:<10}  {:<13}  {:<7}  {}".format
    print(row("bank", "when", "state", "replays", "what you see"))

    def tell(grant: Grant, when: str, first: int, seen: str) -> None:
        name = desk.sandbox.banks[grant.target_id].policy.name
        print(row(name, when, manager.status(grant).state, desk.refreshes(grant) - first, seen))

    def lose_answer(grant: Grant) -> int:
        present = manager.get(grant)
        desk.let_pass(22 * HOUR)
        desk.sandbox.fail(LOST_ANSWER, target_id=grant.target_id)
        expect_error(lambda: manager.refresh(grant))
        desk.events_until(EventName.UNCERTAIN)
        first = desk.refreshes(grant)
        is_served = manager.get(grant) == present
        tell(grant, "the 504", first, f"get() serves the present token: {is_served}")
        desk.let_pass(30.0)
        return first

    first = lose_answer(patient)
    manager.get(patient)
    tell(patient, "30 s later", first, desk.events_until(EventName.REFRESHED))

    log_in(manager, desk.sandbox, strict)
    first = lose_answer(strict)
    held = expect_error(lambda: manager.refresh(strict))
    tell(strict, "30 s later", first, type(held).__name__)
    desk.let_pass(2 * HOUR)
    refused = expect_error(lambda: manager.get(strict))
    tell(strict, "2 h later", first, f"{type(refused).__name__}: {next_step(refused)}")
    say(
        "By default the token is presented once more when the lease is over, never a third time. "
        "The profile of the strict bank says HOLD: a replay may look like theft there, so it waits "
        "until the access token is about to expire."
    )


def main() -> None:
    """Start the local platform, check the certificate, walk the way."""
    # What the keeper logs is told in the transcript.
    logging.getLogger("blink_oauth_keeper").addHandler(logging.NullHandler())
    print(__doc__)
    with Sandbox(banks=BANKS) as sandbox, TemporaryDirectory(prefix="blink-demo-") as folder:
        for target_id, habit in HABITS.items():
            say(f"{sandbox.banks[target_id].policy.name} ({target_id}): {habit}")
        now = partial(moment, sandbox)
        certificate = sandbox.client_certificate()
        heading(1, "The client certificate is checked offline, before anything is sent.")
        say(str(check_certificate(certificate, now=now())))
        context = ssl_context(certificate, now=now())
        with (
            BlinkOAuth(sandbox.settings(), clock=now) as blink,
            httpx.Client(verify=context, trust_env=False) as http,
        ):
            show_client(sandbox, blink, http)
            key = SqlTokenStore.new_key()
            show_keeper(Desk(sandbox, blink, Path(folder), key, SimpleQueue()))
        exchanges, violations = len(sandbox.exchanges), len(sandbox.violations)
        print(f"\nDone: {exchanges} exchanges, {violations} violations of the contract.")


if __name__ == "__main__":
    main()
