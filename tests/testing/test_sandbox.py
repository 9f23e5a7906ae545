"""The sandbox as a whole: settings, reset, delays, other processes, start and stop."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from aiohttp import web
from attrs import evolve

from blink_oauth.settings import Settings
from blink_oauth_testing.sandbox import (
    DEFAULT_BANKS,
    BankPolicy,
    CertificateAuthority,
    Sandbox,
    contract,
)
from blink_oauth_testing.sandbox.http import ServedApplication, ServerThread, bind
from blink_oauth_testing.sandbox.messages import Response
from testing.raw_client import CLIENT_ID, NON_ROTATING, STRICT, USERNAME, RawClient


def test_settings_are_those_of_the_registered_client(sandbox: Sandbox) -> None:
    settings = sandbox.settings()
    assert settings.base_url == sandbox.base_url
    assert settings.client_id == CLIENT_ID
    assert settings.certificate == sandbox.client_certificate()
    assert sandbox.settings("CIDX0000000003").client_id == "CIDX0000000003"
    assert sandbox.settings(user_agent="other/1.0").user_agent == "other/1.0"


def test_the_environment_makes_the_same_settings(sandbox: Sandbox) -> None:
    environment, certificate = sandbox.environment(), sandbox.client_certificate()
    passphrase = certificate.passphrase
    assert passphrase is not None
    assert passphrase.reveal() not in str(environment)
    file = Path(environment["BLINK_KEY_PASSPHRASE_FILE"])
    assert file.read_text("utf-8") == passphrase.reveal()
    in_files = evolve(certificate, passphrase=None, passphrase_file=file)
    assert Settings.from_env(environment) == sandbox.settings(certificate=in_files)


def test_an_unknown_client_is_an_error_that_names_the_known_ones(sandbox: Sandbox) -> None:
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
    with pytest.raises(ValueError, match=r"no bank IIDX99999. The banks are: IIDX00001, "):
        sandbox.issue_code(sandbox.grant("IIDX99999"))


def test_a_reset_restores_everything_but_ports_and_authority(
    sandbox: Sandbox, client: RawClient
) -> None:
    token = client.tokens()["refresh_token"]
    base_url, authority = sandbox.base_url, sandbox.authority
    sandbox.fail("not-json")
    sandbox.clock.advance(seconds=1_000_000.0)
    ahead = sandbox.clock()
    sandbox.banks[STRICT].policy = evolve(DEFAULT_BANKS[0], rotates=False)
    sandbox.reset()
    assert list(sandbox.exchanges) == []
    assert sandbox.clock() < ahead - 900_000.0
    assert client.refresh(token).json()["error"] == "invalid_grant"
    assert sandbox.exchanges[-1].fault is None
    assert sandbox.banks[STRICT].policy == DEFAULT_BANKS[0]
    assert (sandbox.base_url, sandbox.authority) == (base_url, authority)


def test_a_policy_can_change_while_the_sandbox_runs(sandbox: Sandbox, client: RawClient) -> None:
    bank = sandbox.banks[NON_ROTATING]
    bank.policy = evolve(bank.policy, access_token_lifetime=5.0)
    tokens = client.tokens(NON_ROTATING)
    assert int(tokens["expires_in"]) == 5
    sandbox.clock.advance(seconds=5.0)
    assert client.accounts(tokens["access_token"], target_id=NON_ROTATING).status_code == 401


def test_a_second_consent_revokes_the_first_one(sandbox: Sandbox, client: RawClient) -> None:
    bank = sandbox.banks[STRICT]
    bank.policy = evolve(bank.policy, one_token_per_contract=True)
    first, second = client.tokens(), client.tokens()
    assert client.accounts(first["access_token"]).status_code == 401
    assert client.refresh(first["refresh_token"]).json()["error"] == "invalid_grant"
    assert client.accounts(second["access_token"]).status_code == 200


def test_a_refresh_with_a_lost_response_can_be_replayed_within_the_window(
    sandbox: Sandbox, client: RawClient
) -> None:
    bank = sandbox.banks[STRICT]
    bank.policy = evolve(bank.policy, replay_window=30.0)
    token = client.tokens()["refresh_token"]
    sandbox.fail("reset-after")
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        client.refresh(token)
    sandbox.clock.advance(seconds=29.0)
    assert client.refresh(token).status_code == 200
    sandbox.clock.advance(seconds=1.0)
    assert client.refresh(token).status_code == 400
    assert (bank.refreshes, bank.reuses) == (2, 1)


@pytest.mark.parametrize(
    ("fault", "status"),
    [(None, 200), ("service-unavailable", 503), ("gateway-timeout-after", 504)],
)
def test_delayed_responses_wait_concurrently(
    sandbox: Sandbox, client: RawClient, fault: str | None, status: int
) -> None:
    tokens = [client.tokens(NON_ROTATING)["refresh_token"] for _ in range(8)]
    bank = sandbox.banks[NON_ROTATING]
    bank.policy = evolve(bank.policy, response_delay=0.4)
    if fault is not None:
        sandbox.fail(fault, times=8)
    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        responses = list(
            pool.map(lambda token: client.refresh(token, target_id=NON_ROTATING), tokens)
        )
    # In sequence, they would take eight times as long.
    assert 0.4 <= time.monotonic() - started < 8 * 0.4
    assert {response.status_code for response in responses} == {status}
    # The connections stay open after the delay.
    assert all("Connection" not in response.headers for response in responses)


def test_only_token_responses_are_delayed(sandbox: Sandbox, client: RawClient) -> None:
    tokens = client.tokens()
    bank = sandbox.banks[STRICT]
    bank.policy = evolve(bank.policy, response_delay=3600.0)
    assert client.accounts(tokens["access_token"]).status_code == 200
    assert client.refresh(tokens["refresh_token"], username="").status_code == 400
    assert client.tokens(NON_ROTATING)
    assert client.revoke(tokens["refresh_token"]).status_code == 200


def test_many_threads_share_one_sandbox(sandbox: Sandbox) -> None:
    clients = [RawClient(sandbox) for _ in range(8)]
    access_tokens: list[str] = []
    threads = [
        threading.Thread(
            target=lambda c=c: access_tokens.extend(c.tokens()["access_token"] for _ in "ab")
        )
        for c in clients
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    assert len(set(access_tokens)) == 16


OTHER_PROCESS = """
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


def test_requests_of_other_processes_are_executed_and_counted(
    sandbox: Sandbox, client: RawClient
) -> None:
    tokens = [client.tokens()["refresh_token"] for _ in range(2)]
    command = [sys.executable, "-c", OTHER_PROCESS, sandbox.control_url, STRICT, USERNAME]
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


def test_without_validation_requests_are_executed_and_no_violations_recorded() -> None:
    with Sandbox(validate=False) as sandbox, contextlib.closing(RawClient(sandbox)) as client:
        token = client.tokens()["refresh_token"]
        sandbox.fail("missing-source")
        renewed = client.refresh(token, scope="everything").json()["refresh_token"]
        assert client.refresh(renewed).status_code == 200
        assert client.refresh(renewed).json()["error"] == "invalid_grant"
        assert client.post("/oauth/token", {"client_id": CLIENT_ID}).status_code == 400
        assert [exchange.response_violations for exchange in sandbox.exchanges] == [()] * 5


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


def test_a_sandbox_before_start_or_after_stop_raises_an_error() -> None:
    sandbox = Sandbox()
    for use in (lambda: sandbox.base_url, sandbox.settings, sandbox.environment):
        with pytest.raises(RuntimeError, match="is not running"):
            use()
    with sandbox:
        assert sandbox.settings()
    for use in (lambda: sandbox.base_url, sandbox.settings, sandbox.environment):
        with pytest.raises(RuntimeError, match="is not running"):
            use()


def test_a_port_in_use_is_an_error_and_leaves_no_thread() -> None:
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


def test_the_sandboxes_of_a_process_share_an_authority_by_default() -> None:
    one, two = Sandbox(), Sandbox()
    assert one.authority is two.authority
    assert Sandbox(authority=CertificateAuthority.create("Foreign")).authority != one.authority


def test_the_contract_is_found_in_the_checkout_or_the_package() -> None:
    operations = contract.shipped_contract().operations
    assert operations["POST", "/oauth/token"] == "request_token"
    assert operations["POST", "/oauth/revoke"] == "revoke_token"


def test_without_the_extra_the_import_error_names_it(tmp_path: Path) -> None:
    (tmp_path / "aiohttp.py").write_text("raise ImportError('missing', name='aiohttp')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import blink_oauth_testing.sandbox"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "The sandbox needs aiohttp: pip install 'blink-oauth[testing]'." in done.stderr


def test_an_error_while_the_server_starts_is_raised_by_start() -> None:
    async def fail(_: web.Application) -> None:
        raise ZeroDivisionError

    application = web.Application()
    application.on_startup.append(fail)
    with bind(0) as listening:
        thread = ServerThread([ServedApplication(listening, application)])
        with pytest.raises(ZeroDivisionError):
            thread.start()


def test_a_missing_contract_is_an_error_that_advises_to_reinstall(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(contract, "files", lambda _: tmp_path)
    monkeypatch.setattr(contract, "__file__", str(tmp_path / "a/b/c/contract.py"))
    with pytest.raises(FileNotFoundError, match="install blink-oauth again"):
        contract.shipped_contract.__wrapped__()


@pytest.mark.parametrize("body", [b"", b"no JSON", b"[]"])
def test_changing_members_leaves_a_body_that_is_no_object_unchanged(body: bytes) -> None:
    response = Response(200, body=body)
    assert response.with_members({"a": 1}) == response.without_member("a") == response


WRONG = cast("Any", "fake-text-in-the-wrong-place")
BANK = DEFAULT_BANKS[0]
NOT_MADE: dict[str, tuple[str, Callable[[], object]]] = {
    "banks by id": ("banks", lambda: Sandbox(banks=cast("Any", ["IIDX00001"]))),
    "one bank": ("banks", lambda: Sandbox(banks=cast("Any", BANK))),
    "no bank": ("banks", lambda: Sandbox(banks=[])),
    "a bank twice": ("banks", lambda: Sandbox(banks=[BANK, BANK])),
    "one client": ("clients", lambda: Sandbox(clients="CIDX0000000002")),
    "clients": ("clients", lambda: Sandbox(clients=cast("Any", [7]))),
    "one redirect URI": ("redirect_uris", lambda: Sandbox(redirect_uris="http://127.0.0.1/")),
    "port": ("port", lambda: Sandbox(port=WRONG)),
    "port for http": ("http_port", lambda: Sandbox(http_port=-1)),
    "authority": ("authority", lambda: Sandbox(authority=WRONG)),
    "server credentials": ("server_credentials", lambda: Sandbox(server_credentials=WRONG)),
    "clock": ("clock", lambda: Sandbox(clock=cast("Any", time.time))),
    "policy, target id": ("target_id", lambda: BankPolicy(cast("Any", 7), "Musterbank")),
    "policy, name": ("name", lambda: BankPolicy("IIDX00001", cast("Any", None))),
    "policy, rotates": ("rotates", lambda: evolve(BANK, rotates=WRONG)),
    "policy, on_reuse": ("on_reuse", lambda: evolve(BANK, on_reuse=WRONG)),
    "policy, code_lifetime": ("code_lifetime", lambda: evolve(BANK, code_lifetime=WRONG)),
}
REFUSED: dict[str, tuple[str, Callable[[Sandbox], object]]] = {
    "grant of issue_code": ("grant", lambda sandbox: sandbox.issue_code(WRONG)),
    "grant of authorize_url": ("grant", lambda sandbox: sandbox.authorize_url(WRONG, "", "")),
    "credentials": ("credentials", lambda sandbox: sandbox.client_certificate(credentials=WRONG)),
    "fault": ("fault", lambda sandbox: sandbox.fail(cast("Any", None))),
    "times": ("times", lambda sandbox: sandbox.fail("not-json", times=WRONG)),
    "advance": ("days", lambda sandbox: sandbox.clock.advance(days=WRONG)),
}


def refused(name: str, call: Callable[[], object]) -> None:
    """Require that a call is refused with the name of the argument, and shows no value."""
    with pytest.raises(ValueError, match=rf"\b{name}\b") as caught:
        call()
    assert "fake-text" not in str(caught.value)


@pytest.mark.parametrize("case", NOT_MADE)
def test_a_sandbox_is_not_made_with_a_wrong_argument(case: str) -> None:
    refused(*NOT_MADE[case])


@pytest.mark.parametrize("case", REFUSED)
def test_a_method_of_the_sandbox_names_a_wrong_argument(sandbox: Sandbox, case: str) -> None:
    name, call = REFUSED[case]
    refused(name, lambda: call(sandbox))
