"""The authorize endpoint: codes, refusals, the consent page, and redirects that must not happen."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from attrs import evolve

from blink_oauth_testing.sandbox import Sandbox
from blink_oauth_testing.sandbox.banks import Issued
from blink_oauth_testing.sandbox.consent import is_registered
from testing.caller import CALLBACK, LENIENT, STRICT, USERNAME, Caller

STATE = "fake-state & more"


def open_page(sandbox: Sandbox, **changes: str | None) -> httpx.Response:
    """Open the authorize page as a browser does; a parameter of None is left out."""
    url = httpx.URL(sandbox.authorize_url(sandbox.grant(STRICT), CALLBACK, STATE))
    parameters = {**url.params, **changes}
    return httpx.get(
        url.copy_with(query=None),
        params={name: value for name, value in parameters.items() if value is not None},
        trust_env=False,
    )


def came_back(response: httpx.Response) -> dict[str, str]:
    """Return the parameters with which the browser is sent back."""
    assert response.status_code == 302
    location = response.headers["Location"]
    assert location.startswith(f"{CALLBACK}?")
    query = parse_qs(urlsplit(location).query, strict_parsing=True)
    return {name: values[0] for name, values in query.items()}


def session_of(page: httpx.Response) -> str:
    """Return the name of the conversation that a page belongs to."""
    found = re.search(r'name="session" value="([^"]+)"', page.text)
    assert found is not None
    return found[1]


def answer(page: httpx.Response, **form: str) -> httpx.Response:
    """Fill in a page and send it."""
    return httpx.post(page.url, data={"session": session_of(page), **form}, trust_env=False)


def signed_in(sandbox: Sandbox) -> httpx.Response:
    """Sign in, and return the page that asks for consent."""
    page = answer(open_page(sandbox), password="fake-password")
    assert "Approve" in page.text
    return page


def require_expired(response: httpx.Response) -> None:
    assert (response.status_code, "Location" in response.headers) == (400, False)
    assert "This page has expired" in response.text


def test_a_code_comes_back_at_once_with_the_state(sandbox: Sandbox, caller: Caller) -> None:
    parameters = came_back(open_page(sandbox))
    assert parameters.keys() == {"code", "state"}
    assert parameters["state"] == STATE
    assert caller.exchange(parameters["code"]).status_code == 200


def test_the_authorize_response_is_not_kept_by_anyone(sandbox: Sandbox) -> None:
    response = open_page(sandbox)
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Referrer-Policy"] == "no-referrer"


def test_a_state_that_was_not_sent_does_not_come_back(sandbox: Sandbox) -> None:
    assert came_back(open_page(sandbox, state=None)).keys() == {"code"}


def test_loopback_redirects_may_use_any_port(sandbox: Sandbox, caller: Caller) -> None:
    redirect_uri = "http://127.0.0.1:51004/callback"
    response = open_page(sandbox, redirect_uri=redirect_uri)
    location = httpx.URL(response.headers["Location"])
    assert location.port == 51004
    # The exchange must name the very URI of the authorization, port included.
    code = location.params["code"]
    assert caller.exchange(code).status_code == 400
    assert caller.exchange(code, redirect_uri=redirect_uri).status_code == 200


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
def test_an_unknown_client_is_never_redirected(sandbox: Sandbox, client_id: str | None) -> None:
    response = open_page(sandbox, client_id=client_id)
    assert (response.status_code, "Location" in response.headers) == (400, False)


@pytest.mark.parametrize("name", ["client_id", "redirect_uri"])
def test_an_ambiguous_client_or_redirect_is_never_redirected(sandbox: Sandbox, name: str) -> None:
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
def test_other_defects_go_back_with_the_state(
    sandbox: Sandbox, changes: dict[str, str | None], error: str
) -> None:
    assert came_back(open_page(sandbox, **changes)) == {"error": error, "state": STATE}


def test_a_repeated_parameter_goes_back_as_invalid(sandbox: Sandbox) -> None:
    url = sandbox.authorize_url(sandbox.grant(), CALLBACK, STATE)
    assert came_back(httpx.get(f"{url}&username=other", trust_env=False))["error"] == (
        "invalid_request"
    )


def test_an_unknown_bank_has_no_page(sandbox: Sandbox) -> None:
    assert httpx.get(f"{sandbox.control_url}/IIDX77777/oauth/authorize").status_code == 404


class TestConsentPage:
    @pytest.fixture(autouse=True)
    def asking(self, sandbox: Sandbox) -> None:
        bank = sandbox.banks[STRICT]
        bank.policy = evolve(bank.policy, consent_page=True)

    def test_it_asks_in_accessible_html_without_scripts(self, sandbox: Sandbox) -> None:
        response = open_page(sandbox)
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        for expected in ('<html lang="en">', "<title>", "<main", "<h1>", "<label", "Sign in"):
            assert expected in response.text
        assert USERNAME in response.text

    def test_it_shows_a_username_as_text(self, sandbox: Sandbox) -> None:
        page = open_page(sandbox, username="<b>u</b>").text
        assert "&lt;b&gt;u&lt;/b&gt;" in page
        assert "<b>u</b>" not in page

    def test_approval_sends_back_a_code(self, sandbox: Sandbox, caller: Caller) -> None:
        response = answer(signed_in(sandbox), account="2", decision="approve")
        parameters = came_back(response)
        assert parameters["state"] == STATE
        assert caller.exchange(parameters["code"]).status_code == 200

    def test_only_the_chosen_accounts_are_opened(self, sandbox: Sandbox) -> None:
        bank = sandbox.banks[STRICT]
        parameters = came_back(answer(signed_in(sandbox), account="2", decision="approve"))
        client_id = sandbox.settings().client_id
        issued = bank.exchange_code(client_id, parameters["code"], CALLBACK, USERNAME)
        assert isinstance(issued, Issued)
        assert bank.accounts(issued.access_token) == frozenset({"2"})

    def test_refusal_sends_back_access_denied(self, sandbox: Sandbox) -> None:
        response = answer(signed_in(sandbox), account="1", decision="refuse")
        assert came_back(response) == {"error": "access_denied", "state": STATE}

    def test_any_decision_but_approval_is_a_refusal(self, sandbox: Sandbox) -> None:
        response = answer(signed_in(sandbox), account="1", decision="perhaps")
        assert came_back(response)["error"] == "access_denied"

    @pytest.mark.parametrize("password", ["fake-password", ""])
    def test_signing_in_twice_decides_nothing(self, sandbox: Sandbox, password: str) -> None:
        first = open_page(sandbox)
        page = answer(first, password="fake-password")
        require_expired(answer(first, password=password))
        require_expired(answer(page, account="1", decision="approve"))

    @pytest.mark.parametrize("account", [None, "3"])
    def test_a_consent_needs_an_account(self, sandbox: Sandbox, account: str | None) -> None:
        chosen = {"account": account} if account else {}
        page = answer(signed_in(sandbox), decision="approve", **chosen)
        assert page.status_code == 200
        assert "Choose at least one account" in page.text
        assert "code" in came_back(answer(page, account="1", decision="approve"))

    def test_a_password_is_needed_before_anything_else(self, sandbox: Sandbox) -> None:
        page = answer(open_page(sandbox), password=" ", decision="approve", account="1")
        assert page.status_code == 200
        assert "Enter a password" in page.text
        assert "Approve" in answer(page, password="fake-password").text

    def test_a_page_expires(self, sandbox: Sandbox) -> None:
        page = signed_in(sandbox)
        sandbox.clock.advance(seconds=601)
        require_expired(answer(page, account="1", decision="approve"))

    def test_a_page_is_good_for_one_answer(self, sandbox: Sandbox) -> None:
        page = signed_in(sandbox)
        came_back(answer(page, account="1", decision="approve"))
        require_expired(answer(page, account="1", decision="approve"))

    def test_a_page_belongs_to_its_request(self, sandbox: Sandbox) -> None:
        page, other = signed_in(sandbox), open_page(sandbox, username="u-4712")
        form = {"session": session_of(page), "account": "1", "decision": "approve"}
        require_expired(httpx.post(other.url, data=form, trust_env=False))

    def test_an_answer_that_comes_from_no_page_is_refused(self, sandbox: Sandbox) -> None:
        form = {"account": "1", "decision": "approve", "password": "fake-password"}
        require_expired(httpx.post(open_page(sandbox).url, data=form, trust_env=False))

    def test_a_reset_forgets_who_was_being_asked(self, sandbox: Sandbox) -> None:
        page = signed_in(sandbox)
        sandbox.reset()
        bank = sandbox.banks[STRICT]
        bank.policy = evolve(bank.policy, consent_page=True)
        require_expired(answer(page, account="1", decision="approve"))

    def test_the_answer_is_checked_like_the_question(self, sandbox: Sandbox) -> None:
        url = sandbox.authorize_url(sandbox.grant(STRICT), "https://evil.invalid/", STATE)
        response = httpx.post(url, data={"decision": "approve"}, trust_env=False)
        assert (response.status_code, "Location" in response.headers) == (400, False)

    def test_the_other_bank_still_answers_at_once(self, sandbox: Sandbox) -> None:
        url = sandbox.authorize_url(sandbox.grant(LENIENT), CALLBACK, STATE)
        assert "code" in came_back(httpx.get(url, trust_env=False))


def test_a_redirect_uri_off_loopback_must_match_exactly() -> None:
    registered = ("https://app.invalid/callback", "http://[::1]/callback")
    assert is_registered("https://app.invalid/callback", registered)
    assert not is_registered("https://app.invalid:8443/callback", registered)
    assert is_registered("http://[::1]:8080/callback", registered)
    assert not is_registered("http://127.0.0.1:8080/callback", registered)


def test_the_parameters_join_those_of_the_redirect_uri() -> None:
    with Sandbox(redirect_uris=("https://app.invalid/callback?tenant=7",)) as sandbox:
        url = sandbox.authorize_url(sandbox.grant(), sandbox.redirect_uri, STATE)
        location = httpx.URL(httpx.get(url, trust_env=False).headers["Location"])
    assert location.params["tenant"] == "7"
    assert location.params["state"] == STATE
