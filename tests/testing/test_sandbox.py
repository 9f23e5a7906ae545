"""The sandbox as a whole: what it hands out, what it forgets, how it starts and stops."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from attrs import evolve

from blink_oauth.settings import Settings
from blink_oauth_testing.sandbox import DEFAULT_BANKS, CertificateAuthority, Sandbox, contract
from blink_oauth_testing.sandbox.http import ServerThread, Site, bind
from blink_oauth_testing.sandbox.messages import Response
from testing.caller import CLIENT_ID, LENIENT, STRICT, USERNAME, Caller


def test_settings_are_those_of_the_registered_client(sandbox: Sandbox) -> None:
    settings = sandbox.settings()
    assert settings.base_url == sandbox.base_url
    assert settings.client_id == CLIENT_ID
    assert settings.certificate == sandbox.client_certificate()
    assert sandbox.settings("CIDX0000000003").client_id == "CIDX0000000003"
    assert sandbox.settings(user_agent="other/1.0").user_agent == "other/1.0"


def test_the_environment_makes_the_same_settings(sandbox: Sandbox) -> None:
    environment = sandbox.environment()
    passphrase = sandbox.client_certificate().passphrase
    assert passphrase is not None
    assert passphrase.reveal() not in str(environment)
    assert Settings.from_env(environment) == sandbox.settings()


def test_an_unknown_client_is_an_error_that_names_the_known(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match=CLIENT_ID):
        sandbox.settings("CIDX0000000099")


def test_the_urls_are_on_loopback(sandbox: Sandbox) -> None:
    base, accounts = httpx.URL(sandbox.base_url), httpx.URL(sandbox.accounts_url)
    assert (base.scheme, base.host, base.path) == ("https", "localhost", "/consent-flow/v2")
    assert accounts.path == "/account-information-service/v4/accounts"
    assert accounts.port == base.port
    assert httpx.URL(sandbox.control_url).host == "127.0.0.1"


def test_a_code_for_an_unregistered_redirect_uri_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="not registered"):
        sandbox.issue_code(sandbox.grant(), redirect_uri="https://evil.invalid/")


def test_a_reset_forgets_everything_but_ports_and_authority(
    sandbox: Sandbox, caller: Caller
) -> None:
    token = caller.tokens()["refresh_token"]
    base_url, authority = sandbox.base_url, sandbox.authority
    sandbox.fail("not-json")
    sandbox.clock.advance(seconds=1_000_000.0)
    ahead = sandbox.clock()
    sandbox.banks[STRICT].policy = evolve(DEFAULT_BANKS[0], rotates=False)
    sandbox.reset()
    assert list(sandbox.exchanges) == []
    assert sandbox.clock() < ahead - 900_000.0
    assert caller.refresh(token).json()["error"] == "invalid_grant"
    assert sandbox.exchanges[-1].fault is None
    assert sandbox.banks[STRICT].policy == DEFAULT_BANKS[0]
    assert (sandbox.base_url, sandbox.authority) == (base_url, authority)


def test_a_lifetime_can_be_set_while_it_runs(sandbox: Sandbox, caller: Caller) -> None:
    bank = sandbox.banks[LENIENT]
    bank.policy = evolve(bank.policy, access_token_lifetime=5.0)
    tokens = caller.tokens(LENIENT)
    assert int(tokens["expires_in"]) == 5
    sandbox.clock.advance(seconds=5.0)
    assert caller.accounts(tokens["access_token"], target_id=LENIENT).status_code == 401


def test_a_second_consent_ends_the_first_one_silently(sandbox: Sandbox, caller: Caller) -> None:
    bank = sandbox.banks[STRICT]
    bank.policy = evolve(bank.policy, one_token_per_contract=True)
    first, second = caller.tokens(), caller.tokens()
    assert caller.accounts(first["access_token"]).status_code == 401
    assert caller.refresh(first["refresh_token"]).json()["error"] == "invalid_grant"
    assert caller.accounts(second["access_token"]).status_code == 200


def test_a_lost_answer_can_be_had_again_within_the_window(sandbox: Sandbox, caller: Caller) -> None:
    bank = sandbox.banks[STRICT]
    bank.policy = evolve(bank.policy, replay_window=30.0)
    token = caller.tokens()["refresh_token"]
    sandbox.fail("reset-after")
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        caller.refresh(token)
    sandbox.clock.advance(seconds=29.0)
    assert caller.refresh(token).status_code == 200
    sandbox.clock.advance(seconds=1.0)
    assert caller.refresh(token).status_code == 400
    assert (bank.refreshes, bank.reuses) == (2, 1)


@pytest.mark.parametrize(
    ("fault", "status"),
    [(None, 200), ("service-unavailable", 503), ("gateway-timeout-after", 504)],
)
def test_a_bank_may_take_its_time_for_many_at_once(
    sandbox: Sandbox, caller: Caller, fault: str | None, status: int
) -> None:
    tokens = [caller.tokens(LENIENT)["refresh_token"] for _ in range(8)]
    bank = sandbox.banks[LENIENT]
    bank.policy = evolve(bank.policy, response_delay=0.4)
    if fault is not None:
        sandbox.fail(fault, times=8)
    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda token: caller.refresh(token, target_id=LENIENT), tokens))
    # One after the other they would take eight times as long.
    assert 0.4 <= time.monotonic() - started < 8 * 0.4
    assert {answer.status_code for answer in answers} == {status}
    # The connections outlive the wait.
    assert all("Connection" not in answer.headers for answer in answers)


def test_only_token_answers_take_their_time(sandbox: Sandbox, caller: Caller) -> None:
    tokens = caller.tokens()
    bank = sandbox.banks[STRICT]
    bank.policy = evolve(bank.policy, response_delay=3600.0)
    assert caller.accounts(tokens["access_token"]).status_code == 200
    assert caller.refresh(tokens["refresh_token"], username="").status_code == 400
    assert caller.tokens(LENIENT)
    assert caller.revoke(tokens["refresh_token"]).status_code == 200


def test_many_threads_share_one_sandbox(sandbox: Sandbox) -> None:
    callers = [Caller(sandbox) for _ in range(8)]
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda c=c: found.extend(c.tokens()["access_token"] for _ in "ab"))
        for c in callers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for caller in callers:
        caller.close()
    assert len(set(found)) == 16


PROCESS = """
import os, sys
import httpx
from blink_oauth import BlinkOAuth, Settings
from blink_oauth.context import Grant

control, target, username = sys.argv[1:]
token = sys.stdin.readline().strip()
with BlinkOAuth(Settings.from_env(os.environ)) as blink:
    for _ in range(3):
        token = blink.refresh(Grant(target, username), token).refresh_token
httpx.post(f"{control}/sandbox/clock", json={"advance": 100}, trust_env=False).raise_for_status()
"""


def test_other_processes_are_served_and_counted(sandbox: Sandbox, caller: Caller) -> None:
    tokens = [caller.tokens()["refresh_token"] for _ in range(2)]
    command = [sys.executable, "-c", PROCESS, sandbox.control_url, STRICT, USERNAME]
    environment = {**os.environ, **sandbox.environment()}
    running = [
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in tokens
    ]
    outputs = [
        process.communicate(token, timeout=60.0)[0]
        for process, token in zip(running, tokens, strict=True)
    ]
    assert outputs == ["", ""]
    bank = sandbox.banks[STRICT]
    assert (bank.refreshes, bank.reuses) == (6, 0)
    assert sandbox.clock.ahead == 200.0


def test_an_unjudged_sandbox_does_the_same_work_without_the_contract() -> None:
    with Sandbox(judged=False) as sandbox, contextlib.closing(Caller(sandbox)) as caller:
        token = caller.tokens()["refresh_token"]
        sandbox.fail("missing-source")
        renewed = caller.refresh(token, scope="everything").json()["refresh_token"]
        assert caller.refresh(renewed).status_code == 200
        assert caller.refresh(renewed).json()["error"] == "invalid_grant"
        assert caller.post("/oauth/token", {"client_id": CLIENT_ID}).status_code == 400
        assert [exchange.violations for exchange in sandbox.exchanges] == [()] * 5


def test_stopping_ends_thread_sockets_and_files() -> None:
    with Sandbox() as sandbox:
        certificate = sandbox.client_certificate()
        port = httpx.URL(sandbox.base_url).port or 0
        assert certificate.chain.is_file()
        before = threading.active_count()
    assert threading.active_count() == before - 1
    assert not certificate.chain.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    sandbox.stop()


def test_before_the_start_and_after_the_stop_it_says_that_it_does_not_run() -> None:
    sandbox = Sandbox()
    for use in (lambda: sandbox.base_url, sandbox.settings, sandbox.environment):
        with pytest.raises(RuntimeError, match="does not run"):
            use()
    with sandbox:
        assert sandbox.settings()
    for use in (lambda: sandbox.base_url, sandbox.settings, sandbox.environment):
        with pytest.raises(RuntimeError, match="does not run"):
            use()


def test_a_port_that_is_taken_is_an_error_that_leaves_nothing_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        before = threading.active_count()
        for ports in ({"port": port}, {"http_port": port}):
            with pytest.raises(OSError, match="in use"):
                Sandbox(**ports).start()
        assert threading.active_count() == before


def test_the_ports_can_be_chosen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Sandbox(port=port) as sandbox:
        assert httpx.URL(sandbox.base_url).port == port


def test_two_sandboxes_of_one_process_share_their_authority_unless_told_otherwise() -> None:
    one, two = Sandbox(), Sandbox()
    assert one.authority is two.authority
    assert Sandbox(authority=CertificateAuthority.create("Foreign")).authority != one.authority


def test_the_contract_is_found_in_the_checkout_or_the_package() -> None:
    operations = contract.shipped_contract().operations
    assert operations["POST", "/oauth/token"] == "request_token"
    assert operations["POST", "/oauth/revoke"] == "revoke_token"


def test_without_the_extra_the_import_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "aiohttp.py").write_text("raise ImportError('gone', name='aiohttp')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import blink_oauth_testing.sandbox"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "The sandbox needs aiohttp: pip install 'blink-oauth[testing]'." in done.stderr


def test_a_server_that_cannot_start_says_why_and_leaves_no_thread() -> None:
    async def fail(_: web.Application) -> None:
        raise ZeroDivisionError

    application = web.Application()
    application.on_startup.append(fail)
    with bind(0) as listening:
        thread = ServerThread([Site(listening, application)])
        with pytest.raises(ZeroDivisionError):
            thread.start()


def test_a_missing_contract_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(contract, "files", lambda _: tmp_path)
    monkeypatch.setattr(contract, "__file__", str(tmp_path / "a/b/c/contract.py"))
    with pytest.raises(FileNotFoundError, match="install blink-oauth again"):
        contract.shipped_contract.__wrapped__()


@pytest.mark.parametrize("body", [b"", b"no JSON", b"[]"])
def test_a_change_of_members_leaves_what_is_no_object_alone(body: bytes) -> None:
    reply = Response(200, body=body)
    assert reply.with_members({"a": 1}) == reply.without_member("a") == reply
