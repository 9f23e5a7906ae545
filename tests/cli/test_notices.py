"""Notices: delivered by `keep-alive`, listed, tried again, and the configuration of a receiver."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from blink_oauth_cli import keep_alive
from blink_oauth_cli.checks_local import receiver_checks
from blink_oauth_cli.configuration import configure
from blink_oauth_cli.errors import ExitCode
from blink_oauth_cli.main import run
from blink_oauth_cli.receiver import receiver_of
from blink_oauth_keeper import StoreError, TokenManager
from blink_oauth_keeper.store.outbox import NewNotice, Notice, NoticeKind
from blink_oauth_testing.sandbox import CertificateAuthority
from cli.cli_harness import (
    CLIENT,
    GRANT,
    TARGET,
    USERNAME,
    CommandResult,
    Harness,
    plain,
    require_no_secret,
    require_two_lines,
)
from cli.notice_receiver import OTHER_SECRET, SECRET, NoticeReceiver, notice_receiver

IDLE_LIFETIME = 29 * 86_400.0
KEEP_ALIVE = ("keep-alive", "--within", "30d")
DAEMON = ("keep-alive", "--every", "1h")
EXPIRING = NewNotice(kind=NoticeKind.EXPIRING)
PATH = "fake-path-4711"


@pytest.fixture(scope="module")
def running() -> Iterator[NoticeReceiver]:
    with notice_receiver() as receiver:
        yield receiver


@pytest.fixture
def receiver(running: NoticeReceiver) -> NoticeReceiver:
    """Return a receiver that accepts everything and has received nothing."""
    running.status, running.react = 204, lambda: None
    running.requests.clear()
    return running


@pytest.fixture
def informed(harness: Harness, receiver: NoticeReceiver) -> Harness:
    """Return a harness with an empty store and a configured receiver."""
    assert harness.run("store", "init").code == 0
    secrets = harness.folder / "webhook.secrets"
    secrets.write_text(f"{SECRET}\n", "ascii")
    secrets.chmod(0o600)
    harness.configure(webhook_url=receiver.url, webhook_secrets_file=str(secrets))
    return harness


@pytest.fixture
def due(informed: Harness) -> Harness:
    """Return the same with a grant that is due."""
    informed.authorize(idle_lifetime=IDLE_LIFETIME)
    return informed


def lose_consent(harness: Harness) -> None:
    """Let the bank forget the grant, so that it refuses the next refresh."""
    harness.sandbox.banks[TARGET].reset()


def write_notices(harness: Harness, *certificates: str) -> None:
    """Write a notice about each certificate: those of a grant depend on its state."""
    with harness.open_store() as store:
        for name in certificates:
            assert store.add_certificate_notice(CLIENT, name, 1, EXPIRING)


def claim_notices(harness: Harness, limit: int = 100) -> list[Notice]:
    with harness.open_store() as store:
        return list(store.claim_notices(CLIENT, limit=limit, ttl=60.0))


def write_dead_notices(harness: Harness, *certificates: str) -> None:
    """Write notices, and let all pending ones be dead."""
    write_notices(harness, *certificates)
    notices = claim_notices(harness)
    with harness.open_store() as store:
        for notice in notices:
            store.notice_failed(notice, pause=None)


def events(result: CommandResult) -> dict[str, dict[str, object]]:
    """Return the JSON lines of the output by their events."""
    return {line["event"]: line for line in map(json.loads, result.out.splitlines())}


# keep-alive


def test_a_run_delivers_the_notice_of_the_consent_that_it_finds_lost(
    due: Harness, receiver: NoticeReceiver
) -> None:
    lose_consent(due)
    result = due.run(*KEEP_ALIVE)
    assert result.code == ExitCode.CONSENT_NEEDED
    (request,) = receiver.requests
    assert (request.kind, request.signed_by) == ("consent.lost", (SECRET,))
    data = request.content["data"]
    assert (data["target_id"], data["username"]) == (TARGET, USERNAME)
    line = events(result)["notices.finished"]
    assert (line["delivered"], line["failed"], line["left"], line["notices_dead"]) == (1, 0, 0, 0)
    assert USERNAME not in result.out
    require_no_secret(result, [*due.secrets(), SECRET, PATH])
    again = due.run(*KEEP_ALIVE)
    assert len(receiver.requests) == 1
    assert "notices.finished" not in events(again)


def test_without_a_receiver_the_notice_waits_and_the_output_is_that_of_a_run(
    due: Harness, receiver: NoticeReceiver
) -> None:
    url, file = os.environ["BLINK_WEBHOOK_URL"], os.environ["BLINK_WEBHOOK_SECRETS_FILE"]
    due.configure(webhook_url=None, webhook_secrets_file=None)
    lose_consent(due)
    result = due.run(*KEEP_ALIVE)
    assert "notices.finished" not in events(result)
    assert receiver.requests == []
    assert due.run("status").errors == ""
    due.configure(webhook_url=url, webhook_secrets_file=file)
    due.run(*KEEP_ALIVE)
    assert [request.kind for request in receiver.requests] == ["consent.lost"]


def test_a_dry_run_delivers_nothing(informed: Harness, receiver: NoticeReceiver) -> None:
    write_notices(informed, "fake-certificate")
    assert informed.run("keep-alive", "--dry-run").code == 0
    assert receiver.requests == []


def test_a_receiver_that_fails_is_told_and_a_later_delivery_has_the_same_id(
    informed: Harness, receiver: NoticeReceiver
) -> None:
    write_notices(informed, "fake-certificate")
    receiver.status = 500
    result = informed.run("keep-alive")
    line = events(result)["notices.finished"]
    assert (result.code, line["failed"], line["left"]) == (ExitCode.FAILED, 1, 1)
    require_no_secret(result, [SECRET, PATH])
    assert events(result)["keep_alive.finished"]["failed"] == 0
    # It is not due again yet, and still not delivered.
    assert informed.run("notices", "deliver").code == ExitCode.FAILED
    assert len(receiver.requests) == 1
    with informed.open_store() as store:
        store.notice_failed(store.notices(CLIENT)[0].notice, pause=0.0)
    receiver.status = 200
    assert informed.run("notices", "deliver").code == 0
    first, second = receiver.requests
    assert first.id == second.id
    assert informed.run("notices", "list", "--json").json == []


def fail_with_store_error(*_: object, **__: object) -> NoReturn:
    raise StoreError("The store is unavailable.")


def test_a_run_that_fails_delivers_all_the_same(
    informed: Harness, receiver: NoticeReceiver
) -> None:
    write_notices(informed, "fake-certificate")
    informed.monkeypatch.setattr(TokenManager, "refresh_due", fail_with_store_error)
    result = informed.run(*KEEP_ALIVE)
    assert result.code == ExitCode.FAILED
    require_two_lines(result, "The store is unavailable.")
    assert [request.kind for request in receiver.requests] == ["certificate.expiring"]
    assert events(result).keys() == {"notices.finished"}


def test_a_delivery_that_fails_does_not_stop_the_refreshes(
    due: Harness, receiver: NoticeReceiver
) -> None:
    due.monkeypatch.setattr(TokenManager, "deliver_notices", fail_with_store_error)
    result = due.run(*KEEP_ALIVE)
    assert (result.code, result.errors, receiver.requests) == (ExitCode.FAILED, "", [])
    assert events(result)["keep_alive.finished"]["refreshed"] == 1
    failed = events(result)["notices.failed"]
    assert (failed["error"], failed["reason"]) == ("StoreError", "The store is unavailable.")


def test_a_terminal_gets_a_sentence(
    informed: Harness, receiver: NoticeReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_notices(informed, "fake-certificate")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    result = informed.run("keep-alive")
    shown = "Notices delivered: 1. Failed: 0. Still to be delivered: 0. Dead: 0."
    assert shown in plain(result.out)
    assert len(receiver.requests) == 1


# The daemon


Reactions = Mapping[tuple[str, int], Callable[[dict[str, str]], None]]


class Output(io.StringIO):
    """Standard output that calls a function with the number of each event as it is printed."""

    def __init__(self, reactions: Reactions) -> None:
        super().__init__()
        self.reactions = reactions
        self.events: list[str] = []

    def write(self, text: str) -> int:
        content = json.loads(text)
        event = content["event"]
        self.events.append(event)
        if reaction := self.reactions.get((event, self.events.count(event))):
            reaction(content)
        return super().write(text)


def run_daemon(
    harness: Harness,
    reactions: Reactions,
    *words: str,
) -> tuple[int, list[str]]:
    """Run the job until a reaction ends it; return its exit code and its events."""
    output = Output(reactions)
    with harness.monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", output)
        patch.setattr(keep_alive, "DELIVERY_INTERVAL", 0.01)
        code = run([*DAEMON, *words])
    return code, output.events


def end(_: object = None) -> None:
    signal.raise_signal(signal.SIGTERM)


def test_a_daemon_delivers_between_two_runs_and_takes_a_new_secret(
    informed: Harness, receiver: NoticeReceiver
) -> None:
    write_notices(informed, "first")

    def continue_(_: object) -> None:
        file = informed.folder / "webhook.secrets"
        file.write_text(f"{OTHER_SECRET}\n{SECRET}\n", "ascii")
        write_notices(informed, "second")

    reactions = {("notices.finished", 1): continue_, ("notices.finished", 2): end}
    code, names = run_daemon(informed, reactions)
    assert (code, names) == (0, ["keep_alive.finished", *["notices.finished"] * 2])
    assert [each.content["data"]["certificate"] for each in receiver.requests] == [
        "first",
        "second",
    ]
    assert [set(each.signed_by) for each in receiver.requests] == [
        {SECRET},
        {SECRET, OTHER_SECRET},
    ]


def test_sigterm_during_a_delivery_ends_the_command_after_it(
    informed: Harness, receiver: NoticeReceiver
) -> None:
    write_notices(informed, "first", "second", "third")
    receiver.react = lambda: os.kill(os.getpid(), signal.SIGTERM)
    code, names = run_daemon(informed, {})
    assert (code, names) == (0, ["keep_alive.finished", "notices.finished"])
    assert len(receiver.requests) == 1
    left = informed.run("notices", "list", "--json").json
    assert [each["certificate"] for each in left] == ["second", "third"]
    assert {each["due_in"] for each in left} == {0.0}
    result = informed.run("notices", "deliver")
    assert (result.code, events(result)["notices.finished"]["left"]) == (0, 1)
    assert len(receiver.requests) == 2


def test_the_exit_code_of_a_daemon_is_that_of_the_last_delivery_too(
    informed: Harness, receiver: NoticeReceiver
) -> None:
    write_notices(informed, "first")

    def fail(_: object) -> None:
        receiver.status = 500
        write_notices(informed, "second")

    reactions = {("notices.finished", 1): fail, ("notices.finished", 2): end}
    assert run_daemon(informed, reactions)[0] == ExitCode.FAILED


def test_a_daemon_whose_secrets_become_unreadable_says_so_and_goes_on(
    informed: Harness, receiver: NoticeReceiver
) -> None:
    file = informed.folder / "webhook.secrets"
    reasons = []

    def repair(content: dict[str, str]) -> None:
        reasons.append(content["reason"])
        write_notices(informed, "first")
        file.write_text(SECRET, "ascii")

    reactions = {
        ("keep_alive.finished", 1): lambda _: file.unlink(),
        ("notices.failed", 1): repair,
        ("notices.finished", 1): end,
    }
    code, names = run_daemon(informed, reactions)
    assert (code, names[-1], len(receiver.requests)) == (0, "notices.finished", 1)
    reason = f"No secret can be read from {file}: No such file or directory. Nothing was sent."
    assert reasons == [reason]


def test_a_watched_daemon_shows_what_is_not_delivered(
    informed: Harness, receiver: NoticeReceiver
) -> None:
    write_dead_notices(informed, "dead")
    write_notices(informed, "late", "later")
    receiver.status = 500
    pages = []

    def listening(content: dict[str, str]) -> None:
        pages.append(f"http://{content['address']}/metrics")

    shown = {}

    def look(_: object) -> None:
        text = httpx.get(pages[0], trust_env=False, timeout=30.0).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if "notice" in sample.name:
                    shown[sample.name, sample.labels.get("status")] = sample.value
        end()

    reactions = {("keep_alive.listening", 1): listening, ("notices.finished", 1): look}
    assert run_daemon(informed, reactions, "--listen", "127.0.0.1:0")[0] == ExitCode.FAILED
    oldest = shown.pop(("blink_oauth_oldest_notice_timestamp_seconds", None))
    assert shown == {
        ("blink_oauth_notices", "pending"): 2,
        ("blink_oauth_notices", "dead"): 1,
    }
    entries = informed.run("notices", "list", "--json").json
    with informed.open_store() as store:
        assert oldest == store.notices(CLIENT)[1].notice.at.timestamp()
    assert len(entries) == 3


# status and the other commands


def test_status_names_what_is_not_delivered(due: Harness, receiver: NoticeReceiver) -> None:
    assert due.run("status").errors == ""
    write_dead_notices(due, "dead")
    lose_consent(due)
    receiver.status = 500
    due.run(*KEEP_ALIVE)
    result = due.run("status")
    # On a busy machine the commands take seconds.
    lines = re.sub(r"\(\d+ s old", "(0 s old", result.errors).splitlines()
    assert (result.code, lines) == (
        0,
        [
            "certificate dead: the notice certificate.expiring is dead (0 s old, 1 try).",
            f"{GRANT}: the notice consent.lost is pending (0 s old, 1 try).",
        ],
    )
    (grant,) = due.run("status", "--json").json
    (notice,) = grant["notices"]
    assert (notice["kind"], notice["reason"], notice["tries"]) == ("consent.lost", "refused", 1)
    assert (notice["target_id"], notice["username"]) == (TARGET, USERNAME)
    assert not notice["is_dead"]
    assert 0 < notice["due_in"] <= 20


def test_status_names_three_notices_and_counts_the_others(due: Harness) -> None:
    write_notices(due, *"abcde")
    lines = due.run("status").errors.splitlines()
    assert [line[:13] for line in lines[:3]] == ["certificate a", "certificate b", "certificate c"]
    assert lines[3:] == ["2 more notices are not delivered: blink-oauth notices list."]
    (grant,) = due.run("status", "--json").json
    assert grant["notices"] == []


def test_status_without_a_receiver_names_notices_once_a_delivery_was_tried(
    due: Harness,
) -> None:
    due.configure(webhook_url=None, webhook_secrets_file=None)
    write_notices(due, "a")
    assert due.run("status").errors == ""
    claim_notices(due)
    assert due.run("status").errors.startswith("certificate a: the notice")


def test_the_list_has_each_notice_with_its_tries(due: Harness) -> None:
    assert due.run("notices", "list").errors == f"Every notice of {CLIENT} is delivered.\n"
    write_dead_notices(due, "dead")
    lose_consent(due)
    due.configure(webhook_url=None, webhook_secrets_file=None)
    due.run(*KEEP_ALIVE)
    heading, *lines = due.run("notices", "list").out.splitlines()
    assert re.split(" {2,}", heading) == [
        *("At (UTC)", "Notice", "About", "Reason", "Tries", "Next try")
    ]
    assert [re.split(" {2,}", line)[1:] for line in lines] == [
        ["certificate.expiring", "certificate dead", "-", "1", "dead"],
        ["consent.lost", GRANT, "refused", "0", "now"],
    ]
    result = due.run("notices", "list", "--json", "--limit", "1")
    (entry,) = result.json
    assert (entry["certificate"], entry["is_dead"], entry["username"]) == ("dead", True, None)
    assert entry.keys() == {
        *("id", "kind", "client_id", "target_id", "username", "certificate", "generation"),
        *("reason", "ends_at", "correlation_id", "at", "tries", "is_dead", "due_in"),
    }


def test_dead_notices_fail_a_run_until_they_are_retried(
    informed: Harness, receiver: NoticeReceiver
) -> None:
    write_dead_notices(informed, "a", "b")
    result = informed.run("keep-alive")
    assert (result.code, events(result)["notices.finished"]["notices_dead"]) == (1, 2)
    assert receiver.requests == []
    assert informed.run("notices", "retry").out == "Notices to try again: 2.\n"
    assert informed.run("keep-alive").code == 0
    assert len(receiver.requests) == 2
    assert informed.run("notices", "retry").out == "Notices to try again: 0.\n"


def test_a_test_notice_is_signed_and_leaves_the_outbox_alone(
    informed: Harness, receiver: NoticeReceiver
) -> None:
    write_notices(informed, "a")
    before = informed.rows()
    result = informed.run("notices", "test")
    (request,) = receiver.requests
    assert (request.kind, request.signed_by) == ("webhook.test", (SECRET,))
    assert (result.code, result.out) == (0, f"The receiver has taken the notice {request.id}.\n")
    assert informed.rows() == before
    receiver.status = 401
    result = informed.run("notices", "test")
    assert (result.code, result.out) == (ExitCode.FAILED, "")
    require_two_lines(result, "status 401", "check its signature")
    require_no_secret(result, [SECRET, PATH])


def test_a_receiver_of_a_private_authority_is_reached_with_it_and_not_without(
    informed: Harness, tmp_path: Path
) -> None:
    authority = CertificateAuthority.create("Receivers")
    issued = authority.issue_server()
    files = issued.save(tmp_path, "receiver")
    ca = tmp_path / "receiver-ca.pem"
    ca.write_bytes(authority.root_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.chain, files.key, issued.passphrase)
    with notice_receiver(context) as receiver:
        informed.configure(webhook_url=receiver.url)
        refused = informed.run("notices", "test")
        assert refused.code == ExitCode.FAILED
        require_two_lines(refused, "its certificate was refused: ", "BLINK_WEBHOOK_CA")
        require_no_secret(refused, [SECRET, PATH])
        informed.configure(webhook_ca=str(ca))
        assert informed.run("notices", "test").code == 0
        assert [request.kind for request in receiver.requests] == ["webhook.test"]
        ca.unlink()
        missing = informed.run("notices", "test")
        assert missing.code == ExitCode.USAGE
        require_two_lines(missing, "cannot be read", "BLINK_WEBHOOK_CA")


def test_a_changed_file_of_authorities_makes_another_receiver(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    given = {"webhook_url": HERE, "webhook_secrets": SECRET, "webhook_ca": str(ca)}
    configuration = configure(given, folder=None, user_folder=None)
    ca.write_text("fake authority")
    first = receiver_of(configuration)
    assert receiver_of(configuration) == first
    ca.write_text("another fake authority")
    assert receiver_of(configuration) != first


def test_a_test_notice_that_reaches_no_receiver_says_where_to_look(informed: Harness) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    informed.configure(webhook_url=f"http://127.0.0.1:{port}/{PATH}")
    result = informed.run("notices", "test")
    assert result.code == ExitCode.FAILED
    require_two_lines(result, "was not reached", "Look whether it runs")
    require_no_secret(result, [SECRET, PATH])


@pytest.mark.parametrize("words", [("notices", "test"), ("notices", "deliver")])
def test_without_a_receiver_nothing_can_be_sent(harness: Harness, words: tuple[str, ...]) -> None:
    result = harness.run(*words)
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    require_two_lines(result, "No receiver of notices is configured", "BLINK_WEBHOOK_URL")


def test_a_new_secret_goes_to_a_private_file_or_to_a_vault(harness: Harness) -> None:
    file = harness.folder / "new.secrets"
    result = harness.run("notices", "secret", "--output", str(file))
    assert (result.code, result.out) == (0, "")
    assert file.stat().st_mode & 0o777 == 0o600
    secret = file.read_text("ascii").strip()
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret)
    assert secret not in result.errors
    again = harness.run("notices", "secret", "--output", str(file))
    assert again.code == ExitCode.USAGE
    require_two_lines(again, "is there already", "notices secret --reveal")
    assert file.read_text("ascii").strip() == secret
    shown = harness.run("notices", "secret", "--reveal")
    assert shown.out.startswith("whsec_")
    assert shown.out.strip() != secret
    require_two_lines(harness.run("notices", "secret"), "Say where the secret goes")


# The configuration of a receiver

HERE = "http://127.0.0.1:9/fake-path-4711"
FAULTS: dict[str, tuple[dict[str, str | None], str]] = {
    "no secret": ({"webhook_secrets": None}, "has no secret to sign"),
    "no url": ({"webhook_url": None}, "but no receiver"),
    "plain http": ({"webhook_url": "http://app.example/fake-path-4711"}, "start with https://"),
    "no url at all": ({"webhook_url": "fake-path-4711"}, "must be an https URL"),
    "password": ({"webhook_url": "https://u:fake-path-4711@app.example/"}, "without user"),
    "weak secret": ({"webhook_secrets": "whsec_ZmFrZQ=="}, "24 to 64 bytes"),
    "one weak secret": ({"webhook_secrets": f"{SECRET},fake"}, "24 to 64 bytes"),
    "no file": ({"webhook_secrets": None, "webhook_secrets_file": "missing"}, "No such file"),
    "empty file": ({"webhook_secrets": None, "webhook_secrets_file": "empty"}, "it has no secret"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_receiver_that_cannot_be_used_is_refused_before_anything_is_sent(
    informed: Harness, fault: str
) -> None:
    changes, what = FAULTS[fault]
    Path("empty").touch()
    values = {
        "webhook_url": HERE,
        "webhook_secrets": SECRET,
        "webhook_secrets_file": None,
    } | changes
    informed.configure(**values)
    calls, rows = len(informed.sandbox.exchanges), informed.rows()
    for words in (KEEP_ALIVE, ("notices", "test")):
        result = informed.run(*words)
        assert (result.code, result.out) == (ExitCode.USAGE, "")
        require_two_lines(result, what)
        require_no_secret(result, [SECRET, PATH, "ZmFrZQ"])
    assert (len(informed.sandbox.exchanges), informed.rows()) == (calls, rows)
    given = {name: value for name, value in values.items() if value is not None}
    configuration = configure(given, folder=None, user_folder=None)
    (failed,) = receiver_checks(configuration)
    assert (failed.name, failed.level) == ("webhook", "fail")
    assert what in failed.finding
    assert PATH not in str(failed)


def test_the_doctor_says_where_notices_go_and_which_are_late(informed: Harness) -> None:
    write_notices(informed, "a", "b")
    write_dead_notices(informed, "c")

    def checks() -> dict[str, dict[str, str]]:
        return {check["name"]: check for check in informed.run("doctor", "--json").json}

    found = checks()
    url = os.environ["BLINK_WEBHOOK_URL"].removesuffix(f"/{PATH}")
    assert found["webhook"]["finding"] == (f"{url} receives notices; secrets that sign them: 1.")
    assert found["webhook_secrets_file"]["level"] == "ok"
    assert (found["store_notices"]["level"], found["store_notices"]["finding"]) == (
        "warn",
        "Notices that are not delivered: 0 are older than an hour, 3 are dead.",
    )
    informed.run("notices", "retry")
    assert "store_notices" not in checks()
