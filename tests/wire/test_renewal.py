"""Certificates are renewed from their files while the client is in use."""

from __future__ import annotations

import logging
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from attrs import define, evolve, field

from blink_oauth import (
    AsyncBlinkOAuth,
    BlinkOAuth,
    Grant,
    Rule,
    check_certificate,
)
from blink_oauth.renewal import CertificateRenewal, ContextSource
from blink_oauth_testing.sandbox import Credentials, Sandbox
from blink_oauth_testing.sandbox.certificates import private_key
from flavours import Caller, Flavour
from wire import certificates
from wire.concurrent_callers import callers_of
from wire.counting_server import CountingServer, counting_server
from wire.harness import NON_ROTATING, STRICT, Connect, exchange, refresh_token, wait_until
from wire.renewals import (
    CONNECTIONS,
    LOOK,
    ORDERS,
    ManualClock,
    Order,
    ReplacedFiles,
    Storm,
    issue,
    truncated,
)

PROGRAM = Path(__file__).with_name("renewal_fork_program.py")
CALLERS = 64
RETRY = 60.0
"""Seconds after which refused files are read again."""


@define
class Harness:
    """A client whose files a test replaces."""

    sandbox: Sandbox
    files: ReplacedFiles
    caller: Caller
    clock: ManualClock
    grant: Grant
    secret: str = field(default="", repr=False)

    def call(self) -> str:
        """Refresh, and return the fingerprint of the certificate that the server received."""
        self.caller.refresh(self.grant, self.secret)
        return self.sandbox.exchanges[-1].certificate

    def call_after_each_look(self, looks: int = 2) -> list[str]:
        """Call after each of the next looks at the files."""
        found = []
        for _ in range(looks):
            self.clock.seconds += LOOK
            found.append(self.call())
        return found


@pytest.fixture
def files(blink_sandbox: Sandbox, tmp_path: Path) -> ReplacedFiles:
    """Return files with the first certificate."""
    files = ReplacedFiles(tmp_path, blink_sandbox.authority.root_pem)
    files.replace(issue(blink_sandbox, "first"))
    return files


@pytest.fixture
def harness(connect: Connect, blink_sandbox: Sandbox, files: ReplacedFiles) -> Harness:
    """Return a client of each flavour that has made a call."""
    clock = ManualClock()
    caller = connect(blink_sandbox.settings(certificate=files.certificate), monotonic=clock)
    grant = blink_sandbox.grant(NON_ROTATING)
    secret = refresh_token(exchange(caller, blink_sandbox, grant))
    return Harness(blink_sandbox, files, caller, clock, grant, secret)


def test_the_server_receives_the_new_certificate(harness: Harness) -> None:
    used = harness.call()
    new = issue(harness.sandbox, "second")
    *before, last = truncated(harness.files, new)
    for step in before:
        step()
        assert harness.call_after_each_look() == [used, used]
    last()
    assert harness.call() == used
    assert harness.call_after_each_look() == [used, new.fingerprint]


def test_an_idle_connection_is_closed_at_the_renewal_and_one_in_use_after_its_call(
    flavour: Flavour, tls_server: CountingServer, files: ReplacedFiles, blink_sandbox: Sandbox
) -> None:
    clock = ManualClock()
    settings = tls_server.settings(certificate=files.certificate)
    with callers_of(flavour, settings, monotonic=clock) as callers:
        tls_server.hold("in-use", "idle")
        pending = [callers.start(name) for name in ("in-use", "idle")]
        tls_server.wait_for("in-use", "idle")
        tls_server.respond("idle")
        assert pending[1].result(30) == ["idle"]
        files.replace(issue(blink_sandbox, "second"))
        clock.seconds += LOOK
        assert callers.start("first-look").result(30) == ["first-look"]
        clock.seconds += LOOK
        assert callers.start("second-look").result(30) == ["second-look"]
        in_use, idle, first, second = tls_server.connections_of(
            "in-use", "idle", "first-look", "second-look"
        )
        assert len({in_use, idle, second}) == 3
        assert first == idle
        wait_until(lambda: idle in tls_server.ended)
        assert not tls_server.ended & {in_use, second}
        tls_server.respond("in-use")
        assert pending[0].result(30) == ["in-use"]
        wait_until(lambda: in_use in tls_server.ended)
        assert callers.start("later").result(30) == ["later"]
        assert tls_server.connections_of("later") == [second]


@pytest.fixture
def tls_server(
    blink_sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CountingServer]:
    """Run a counting server that demands the client's certificate."""
    issued = blink_sandbox.authority.issue_server()
    saved = issued.save(tmp_path_factory.mktemp("server"), "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(saved.chain, saved.key, issued.passphrase)
    context.load_verify_locations(cadata=blink_sandbox.authority.root_pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    with counting_server(context) as server:
        yield server


def expired(sandbox: Sandbox) -> Credentials:
    return certificates.expired(sandbox.authority)


def for_servers(sandbox: Sandbox) -> Credentials:
    return certificates.for_servers_only(sandbox.authority)


def with_another_key(sandbox: Sandbox) -> Credentials:
    return evolve(issue(sandbox, "second"), key=private_key("CIDX0000000002"))


def without_issuers(sandbox: Sandbox) -> Credentials:
    return certificates.without_issuers(sandbox.authority)


REFUSED: dict[Callable[[Sandbox], Credentials], Rule] = {
    expired: Rule.VALID_NOW,
    for_servers: Rule.CLIENT_AUTHENTICATION,
    with_another_key: Rule.KEY_MATCHES,
    # A warning only, but the pair in use has its issuers.
    without_issuers: Rule.CHAIN_COMPLETE,
}


def test_the_one_in_use_goes_on_if_a_pair_is_refused(harness: Harness) -> None:
    used = harness.call()
    harness.files.replace(expired(harness.sandbox))
    assert harness.call_after_each_look(4) == [used] * 4


def test_64_callers_do_not_notice_that_the_files_are_replaced_ten_times(
    flavour: Flavour, tmp_path: Path
) -> None:
    with Sandbox(validate=False) as sandbox:
        files = ReplacedFiles(tmp_path, sandbox.authority.root_pem)
        files.replace(issue(sandbox, "first"))
        settings = sandbox.settings(certificate=files.certificate, max_connections=CONNECTIONS)
        storm, bank = Storm(sandbox, files, CALLERS), sandbox.banks[STRICT]
        # A caller that waits for a connection gets one with the new certificate.
        drained = storm.wait_for_new_calls
        with BlinkOAuth(settings, monotonic=storm.clock) as client:
            grants = [sandbox.grant(STRICT, f"u-{number}") for number in range(CALLERS)]
            tokens = {grant: exchange(client, sandbox, grant) for grant in grants}

            def refresh(grant: Grant) -> None:
                tokens[grant] = client.refresh(grant, refresh_token(tokens[grant]))

            async def refresh_async(grant: Grant) -> None:
                token = await asynchronous.refresh(grant, refresh_token(tokens[grant]))
                tokens[grant] = token

            first = dict(tokens)
            if flavour == "sync":
                with storm.in_threads([partial(refresh, grant) for grant in grants]):
                    storm.replace_ten_times(client.context_source, drained)
            else:
                asynchronous = AsyncBlinkOAuth(settings, monotonic=storm.clock)
                calls = [partial(refresh_async, grant) for grant in grants]
                with storm.in_tasks(calls, asynchronous):
                    storm.replace_ten_times(asynchronous.context_source, drained)
        assert all(tokens[grant] != first[grant] for grant in grants)
        assert bank.reuses == 0
        assert bank.refreshes == len(storm.done)


@define
class Looks:
    """A source of TLS contexts whose files and clocks a test changes."""

    files: ReplacedFiles
    sandbox: Sandbox
    now: datetime = field(factory=lambda: datetime.now(UTC))
    clock: ManualClock = field(factory=ManualClock)
    told: list[CertificateRenewal] = field(factory=list)
    on_check: Callable[[], object] = field(default=lambda: None)
    source: ContextSource = field(init=False)

    def __attrs_post_init__(self) -> None:
        settings = self.sandbox.settings(certificate=self.files.certificate)
        self.source = ContextSource(settings, self.read_time, self.clock)
        self.source.load()
        self.source.subscribe(self.hear)

    def read_time(self) -> datetime:
        """Return the time, which is read between the content of the files and their check."""
        self.on_check()
        return self.now

    @property
    def expires_at(self) -> datetime | None:
        """The end of the certificate in the files."""
        return check_certificate(self.files.certificate, now=self.now).expires_at

    def hear(self, renewal: CertificateRenewal) -> None:
        """Record what the source reports."""
        self.told.append(renewal)

    def look(self, seconds: float = LOOK) -> None:
        """Look at the files, as a request does."""
        self.clock.seconds += seconds
        if self.source.is_due():
            self.source.look()


@pytest.fixture
def looks(blink_sandbox: Sandbox, files: ReplacedFiles) -> Looks:
    """Return a source that has loaded the first certificate."""
    return Looks(files, blink_sandbox)


@pytest.mark.parametrize("order", ORDERS)
def test_a_new_pair_is_used_once_it_is_whole(order: Order, looks: Looks) -> None:
    for key in ("second", "first"):
        context = looks.source.context
        *before, last = order(looks.files, issue(looks.sandbox, key))
        for step in before:
            step()
            looks.look()
            looks.look()
            looks.look(RETRY)
            assert looks.source.context is context
        last()
        looks.look()
        assert looks.source.context is context
        looks.look()
        assert looks.source.context is not context
        assert looks.told.pop().reasons == ()


def test_files_that_were_replaced_a_minute_ago_are_used_at_the_first_look(looks: Looks) -> None:
    context = looks.source.context
    looks.files.replace(issue(looks.sandbox, "second"))
    looks.now += timedelta(seconds=RETRY + 1)
    looks.look()
    assert looks.source.context is not context
    assert [each.reasons for each in looks.told] == [()]


def test_a_missing_file_is_not_reported_at_the_first_look(looks: Looks) -> None:
    looks.files.certificate.chain.unlink()
    looks.now += timedelta(seconds=RETRY + 1)
    looks.look()
    assert looks.told == []
    looks.look()
    assert len(looks.told) == 1


@pytest.mark.parametrize("make", REFUSED)
def test_a_worse_pair_is_refused_and_reported_once(
    make: Callable[[Sandbox], Credentials], looks: Looks, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "blink_oauth")
    context, until = looks.source.context, looks.expires_at
    looks.files.replace(make(looks.sandbox))
    for seconds in (LOOK, LOOK, LOOK, RETRY, RETRY):
        looks.look(seconds)
    assert looks.source.context is context
    (refusal,) = looks.told
    assert [reason.rule for reason in refusal.reasons] == [REFUSED[make]]
    assert refusal.expires_at == until
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert refusal.reasons[0].text in record.getMessage()
    assert str(until) in record.getMessage()
    looks.files.replace(issue(looks.sandbox, "second"))
    looks.look()
    looks.look()
    assert looks.source.context is not context
    assert looks.told[1].reasons == ()
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_a_pair_that_is_put_back_after_a_refusal_is_no_renewal(looks: Looks) -> None:
    context = looks.source.context
    before = {path: path.read_bytes() for path in looks.files.certificate.files}
    for _ in range(2):
        looks.files.replace(expired(looks.sandbox))
        looks.look()
        looks.look()
        for path, content in before.items():
            path.write_bytes(content)
        looks.look()
        looks.look()
    assert looks.source.context is context
    assert len(looks.told) == 2


def test_what_changes_while_it_is_read_is_read_again(looks: Looks) -> None:
    context = looks.source.context
    looks.files.replace(issue(looks.sandbox, "second"))
    looks.look()
    later = issue(looks.sandbox, "first")
    looks.on_check = lambda: looks.files.replace(later)
    looks.look()
    assert looks.source.context is context
    looks.on_check = lambda: None
    looks.look()
    looks.look()
    assert [renewal.expires_at for renewal in looks.told] == [later.certificate.not_valid_after_utc]


def test_files_with_the_same_content_are_no_renewal(looks: Looks) -> None:
    context = looks.source.context
    for path in looks.files.certificate.files:
        path.write_bytes(path.read_bytes())
    looks.look()
    looks.look()
    looks.look()
    assert looks.source.context is context
    assert looks.told == []


def test_other_authorities_are_a_renewal(looks: Looks) -> None:
    context = looks.source.context
    (looks.files.folder / "ca.pem").write_bytes(
        looks.sandbox.authority.root_pem + looks.sandbox.authority.root_pem
    )
    looks.look()
    looks.look()
    assert looks.source.context is not context
    assert [renewal.reasons for renewal in looks.told] == [()]


def test_authorities_that_cannot_be_read_are_refused(looks: Looks) -> None:
    context = looks.source.context
    (looks.files.folder / "ca.pem").write_bytes(b"fake")
    looks.look()
    looks.look()
    assert looks.source.context is context
    ((reason,),) = [renewal.reasons for renewal in looks.told]
    assert reason.rule is Rule.AUTHORITIES


def test_only_one_caller_in_a_second_looks(looks: Looks) -> None:
    assert not looks.source.is_due()
    looks.clock.seconds += LOOK
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: looks.source.is_due(), range(64))) == 1
    looks.clock.seconds += LOOK / 2
    assert not looks.source.is_due()


def test_a_refused_certificate_is_used_once_it_is_valid(looks: Looks) -> None:
    tomorrow = looks.now + timedelta(days=1)
    new = looks.sandbox.authority.issue_client("c", not_before=tomorrow)
    looks.files.replace(new)
    context = looks.source.context
    for _ in range(3):
        looks.look()
    assert looks.source.context is context
    looks.now = tomorrow + timedelta(hours=1)
    looks.look()
    assert looks.source.context is context
    looks.look(RETRY)
    assert looks.source.context is not context
    refused, renewed = looks.told
    assert [reason.rule for reason in refused.reasons] == [Rule.VALID_NOW]
    assert renewed.reasons == ()
    assert renewed.expires_at == new.certificate.not_valid_after_utc


def test_a_shorter_validity_is_no_reason_to_refuse(looks: Looks) -> None:
    start, end = looks.now - timedelta(days=40), looks.now + timedelta(days=7)
    new = looks.sandbox.authority.issue_client("c", not_before=start, not_after=end)
    looks.files.replace(new)
    looks.look()
    looks.look()
    assert [renewal.reasons for renewal in looks.told] == [()]
    assert [finding.rule for finding in looks.told[0].report.findings] == [Rule.DAYS_LEFT]


def test_once_the_one_in_use_has_expired_every_usable_one_is_better(looks: Looks) -> None:
    looks.now += timedelta(days=366)
    until = looks.now + timedelta(days=90)
    new = looks.sandbox.authority.issue_client("c", not_before=looks.now, not_after=until)
    looks.files.replace(evolve(new, issuers=()))
    looks.look()
    looks.look()
    assert [renewal.expires_at for renewal in looks.told] == [until.replace(microsecond=0)]


def test_a_listener_is_held_weakly(looks: Looks) -> None:
    class Listener:
        def hear(self, renewal: CertificateRenewal) -> None:
            raise AssertionError

    looks.source.subscribe(Listener().hear)
    looks.files.replace(issue(looks.sandbox, "second"))
    looks.look()
    looks.look()
    assert len(looks.told) == 1


def test_after_a_fork_the_child_looks_although_a_thread_of_the_parent_was_looking(
    blink_sandbox: Sandbox, files: ReplacedFiles
) -> None:
    for key in ("second", "first"):
        files.contents(issue(blink_sandbox, key))
    certificate = files.certificate
    run = subprocess.run(
        [sys.executable, "-W", "error", PROGRAM, *(files.folder / f"made-{n}" for n in (2, 3))],
        env=os.environ
        | blink_sandbox.environment()
        | {
            "BLINK_CERTIFICATE": str(certificate.chain),
            "BLINK_KEY": str(certificate.key),
            "BLINK_KEY_PASSPHRASE_FILE": str(certificate.passphrase_file),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
