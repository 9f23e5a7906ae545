"""The authorize endpoint: codes, refusals, consent pages, and redirects that must not happen."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from attrs import evolve

from blink_oauth_testing.sandbox import Sandbox
from blink_oauth_testing.sandbox.banks import IssuedTokens
from blink_oauth_testing.sandbox.consent import is_registered
from testing.raw_client import CALLBACK, NON_ROTATING, STRICT, USERNAME, RawClient

STATE = "fake-state & more"


def open_page(sandbox: Sandbox, **changes: str | None) -> httpx.Response:
    """Open the authorize URL as a browser does; a parameter with the value None is left out."""
    url = httpx.URL(sandbox.authorize_url(sandbox.grant(STRICT), CALLBACK, STATE))
    parameters = {**url.params, **changes}
    return httpx.get(
        url.copy_with(query=None),
        params={name: value for name, value in parameters.items() if value is not None},
        trust_env=False,
    )


def redirect_parameters(response: httpx.Response) -> dict[str, str]:
    """Return the parameters of the redirect."""
    assert response.status_code == 302
    location = response.headers["Location"]
    assert location.startswith(f"{CALLBACK}?")
    query = parse_qs(urlsplit(location).query, strict_parsing=True)
    return {name: values[0] for name, values in query.items()}


def session_id_of(page: httpx.Response) -> str:
    """Return the id of the consent session of a page."""
    found = re.search(r'name="session" value="([^"]+)"', page.text)
    assert found is not None
    return found[1]


def submit(page: httpx.Response, **form: str) -> httpx.Response:
    """Submit the form of a page."""
    return httpx.post(page.url, data={"session": session_id_of(page), **form}, trust_env=False)


def sign_in(sandbox: Sandbox) -> httpx.Response:
    """Sign in, and return the consent page."""
    page = submit(open_page(sandbox), password="fake-password")
    assert "Approve" in page.text
    return page


def require_expired(response: httpx.Response) -> None:
    assert (response.status_code, "Location" in response.headers) == (400, False)
    assert "This page has expired" in response.text


def test_without_consent_pages_the_redirect_has_code_and_state(
    sandbox: Sandbox, client: RawClient
) -> None:
    parameters = redirect_parameters(open_page(sandbox))
    assert parameters.keys() == {"code", "state"}
    assert parameters["state"] == STATE
    assert client.exchange(parameters["code"]).status_code == 200


def test_the_authorize_response_forbids_caching_and_referrers(sandbox: Sandbox) -> None:
    response = open_page(sandbox)
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Referrer-Policy"] == "no-referrer"


def test_the_redirect_has_no_state_if_the_request_had_none(sandbox: Sandbox) -> None:
    assert redirect_parameters(open_page(sandbox, state=None)).keys() == {"code"}


def test_loopback_redirects_may_use_any_port(sandbox: Sandbox, client: RawClient) -> None:
    redirect_uri = "http://127.0.0.1:51004/callback"
    response = open_page(sandbox, redirect_uri=redirect_uri)
    location = httpx.URL(response.headers["Location"])
    assert location.port == 51004
    # The exchange must have the same URI as the authorization request, port included.
    code = location.params["code"]
    assert client.exchange(code).status_code == 400
    assert client.exchange(code, redirect_uri=redirect_uri).status_code == 200


@pytest.mark.parametrize(
    "redirect_uri",
    [
        "https://evil.invalid/callback",
        "http://127.0.0.1/elsewhere",
        "http://127.0.0.1/callback?more=1",
        "http://127.0.0.1.evil.invalid/callback",
        "http://user@127.0.0.1:80/callback",
        "http://localhost/callback",
        "https://127.0.0.1/callback",
        "//127.0.0.1/callback",
        "http://127.0.0.1:notaport/callback",
        "http://[::1/callback",
        "",
        None,
    ],
)
def test_an_unregistered_redirect_uri_is_never_redirected_to(
    sandbox: Sandbox, redirect_uri: str | None
) -> None:
    response = open_page(sandbox, redirect_uri=redirect_uri)
    assert response.status_code == 400
    assert "Location" not in response.headers
    assert "The redirect URI is not registered." in response.text


@pytest.mark.parametrize("client_id", ["CIDX0000000099", None])
def test_for_an_unknown_client_the_browser_is_not_redirected(
    sandbox: Sandbox, client_id: str | None
) -> None:
    response = open_page(sandbox, client_id=client_id)
    assert (response.status_code, "Location" in response.headers) == (400, False)


@pytest.mark.parametrize("name", ["client_id", "redirect_uri"])
def test_for_a_repeated_client_or_redirect_uri_the_browser_is_not_redirected(
    sandbox: Sandbox, name: str
) -> None:
    url = sandbox.authorize_url(sandbox.grant(), CALLBACK, STATE)
    response = httpx.get(f"{url}&{name}=CIDX0000000002", trust_env=False)
    assert (response.status_code, "Location" in response.headers) == (400, False)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": None}, "invalid_request"),
        ({"username": None}, "invalid_request"),
        ({"username": ""}, "invalid_request"),
        ({"username": "u" * 65}, "invalid_request"),
    ],
)
def test_other_errors_redirect_the_browser_with_the_state(
    sandbox: Sandbox, changes: dict[str, str | None], error: str
) -> None:
    assert redirect_parameters(open_page(sandbox, **changes)) == {"error": error, "state": STATE}


def test_a_repeated_parameter_is_an_invalid_request(sandbox: Sandbox) -> None:
    url = sandbox.authorize_url(sandbox.grant(), CALLBACK, STATE)
    assert redirect_parameters(httpx.get(f"{url}&username=other", trust_env=False))["error"] == (
        "invalid_request"
    )


def test_an_unknown_bank_has_no_page(sandbox: Sandbox) -> None:
    assert httpx.get(f"{sandbox.control_url}/IIDX77777/oauth/authorize").status_code == 404


class TestConsentPage:
    @pytest.fixture(autouse=True)
    def with_consent_page(self, sandbox: Sandbox) -> None:
        bank = sandbox.banks[STRICT]
        bank.policy = evolve(bank.policy, consent_page=True)

    def test_the_page_is_accessible_html_without_scripts(self, sandbox: Sandbox) -> None:
        response = open_page(sandbox)
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        for expected in ('<html lang="en">', "<title>", "<main", "<h1>", "<label", "Sign in"):
            assert expected in response.text
        assert USERNAME in response.text

    def test_the_username_is_escaped(self, sandbox: Sandbox) -> None:
        page = open_page(sandbox, username="<b>u</b>").text
        assert "&lt;b&gt;u&lt;/b&gt;" in page
        assert "<b>u</b>" not in page

    def test_approval_redirects_with_a_code(self, sandbox: Sandbox, client: RawClient) -> None:
        response = submit(sign_in(sandbox), account="2", decision="approve")
        parameters = redirect_parameters(response)
        assert parameters["state"] == STATE
        assert client.exchange(parameters["code"]).status_code == 200

    def test_the_token_covers_only_the_chosen_accounts(self, sandbox: Sandbox) -> None:
        bank = sandbox.banks[STRICT]
        parameters = redirect_parameters(submit(sign_in(sandbox), account="2", decision="approve"))
        client_id = sandbox.settings().client_id
        issued = bank.exchange_code(client_id, parameters["code"], CALLBACK, USERNAME)
        assert isinstance(issued, IssuedTokens)
        assert bank.accounts(issued.access_token) == frozenset({"2"})

    def test_refusal_redirects_with_access_denied(self, sandbox: Sandbox) -> None:
        response = submit(sign_in(sandbox), account="1", decision="refuse")
        assert redirect_parameters(response) == {"error": "access_denied", "state": STATE}

    def test_any_decision_but_approval_is_a_refusal(self, sandbox: Sandbox) -> None:
        response = submit(sign_in(sandbox), account="1", decision="perhaps")
        assert redirect_parameters(response)["error"] == "access_denied"

    @pytest.mark.parametrize("password", ["fake-password", ""])
    def test_a_second_sign_in_ends_the_session_without_a_decision(
        self, sandbox: Sandbox, password: str
    ) -> None:
        first = open_page(sandbox)
        page = submit(first, password="fake-password")
        require_expired(submit(first, password=password))
        require_expired(submit(page, account="1", decision="approve"))

    @pytest.mark.parametrize("account", [None, "3"])
    def test_approval_needs_an_account(self, sandbox: Sandbox, account: str | None) -> None:
        chosen = {"account": account} if account else {}
        page = submit(sign_in(sandbox), decision="approve", **chosen)
        assert page.status_code == 200
        assert "Choose at least one account" in page.text
        assert "code" in redirect_parameters(submit(page, account="1", decision="approve"))

    def test_a_decision_counts_only_after_a_password(self, sandbox: Sandbox) -> None:
        page = submit(open_page(sandbox), password=" ", decision="approve", account="1")
        assert page.status_code == 200
        assert "Enter a password" in page.text
        assert "Approve" in submit(page, password="fake-password").text

    def test_a_session_expires_after_ten_minutes(self, sandbox: Sandbox) -> None:
        page = sign_in(sandbox)
        sandbox.clock.advance(seconds=601)
        require_expired(submit(page, account="1", decision="approve"))

    def test_a_decision_can_be_submitted_once(self, sandbox: Sandbox) -> None:
        page = sign_in(sandbox)
        redirect_parameters(submit(page, account="1", decision="approve"))
        require_expired(submit(page, account="1", decision="approve"))

    def test_a_page_is_bound_to_its_authorization_request(self, sandbox: Sandbox) -> None:
        page, other = sign_in(sandbox), open_page(sandbox, username="u-4712")
        form = {"session": session_id_of(page), "account": "1", "decision": "approve"}
        require_expired(httpx.post(other.url, data=form, trust_env=False))

    def test_a_form_without_a_session_is_refused(self, sandbox: Sandbox) -> None:
        form = {"account": "1", "decision": "approve", "password": "fake-password"}
        require_expired(httpx.post(open_page(sandbox).url, data=form, trust_env=False))

    def test_a_reset_ends_open_sessions(self, sandbox: Sandbox) -> None:
        page = sign_in(sandbox)
        sandbox.reset()
        bank = sandbox.banks[STRICT]
        bank.policy = evolve(bank.policy, consent_page=True)
        require_expired(submit(page, account="1", decision="approve"))

    def test_a_submitted_form_is_checked_like_the_first_request(self, sandbox: Sandbox) -> None:
        url = sandbox.authorize_url(sandbox.grant(STRICT), "https://evil.invalid/", STATE)
        response = httpx.post(url, data={"decision": "approve"}, trust_env=False)
        assert (response.status_code, "Location" in response.headers) == (400, False)

    def test_a_bank_without_consent_page_still_gives_a_code_at_once(self, sandbox: Sandbox) -> None:
        url = sandbox.authorize_url(sandbox.grant(NON_ROTATING), CALLBACK, STATE)
        assert "code" in redirect_parameters(httpx.get(url, trust_env=False))


def test_a_redirect_uri_off_loopback_must_match_exactly() -> None:
    registered = ("https://app.invalid/callback", "http://[::1]/callback")
    assert is_registered("https://app.invalid/callback", registered)
    assert not is_registered("https://app.invalid:8443/callback", registered)
    assert is_registered("http://[::1]:8080/callback", registered)
    assert not is_registered("http://127.0.0.1:8080/callback", registered)


def test_the_parameters_are_added_to_those_of_the_redirect_uri() -> None:
    with Sandbox(redirect_uris=("https://app.invalid/callback?tenant=7",)) as sandbox:
        url = sandbox.authorize_url(sandbox.grant(), sandbox.redirect_uri, STATE)
        location = httpx.URL(httpx.get(url, trust_env=False).headers["Location"])
    assert location.params["tenant"] == "7"
    assert location.params["state"] == STATE
