"""What a customer sees in each application, in every situation of a consent."""

from __future__ import annotations

import logging

import httpx
import pytest
from attrs import evolve

from blink_oauth_testing.sandbox import Fault
from examples.web.harness import BANK, DEVICE, USER_AGENT, Application, agreed, refused

ACCOUNTS = f"/banks/{BANK}/accounts"
OTHER_BANK = "IIDX00002"
ACCOUNTS_API = "/account-information-service/"


def test_a_customer_connects_a_bank_sees_the_accounts_and_disconnects(
    application: Application,
) -> None:
    customer = application.customer()
    assert "Not connected" in customer.get("/").text
    page = customer.connect()
    assert page.status_code == 200
    assert "CH0000000000000000001" in page.text
    assert "Disconnect" in customer.get("/").text
    assert customer.post(f"/banks/{BANK}/disconnect").headers["Location"] == "/"
    assert "Disconnect" not in customer.get("/").text
    assert customer.get(ACCOUNTS).status_code == 403


def test_the_bank_is_told_the_customers_device(application: Application) -> None:
    application.customer().connect()
    for operation in ("request_token", "list_accounts"):
        (exchange,) = application.exchanges(operation)
        headers = {name.lower(): value for name, value in exchange.request_headers}
        assert headers["x-psu-ip-address"] == DEVICE
        assert headers["x-psu-user-agent"] == USER_AGENT


@pytest.mark.parametrize("user_agent", ["", "x" * 6_000], ids=["none", "long"])
def test_no_user_agent_costs_a_customer_the_code(application: Application, user_agent: str) -> None:
    customer = application.customer()
    customer.change_user_agent(user_agent)
    assert customer.connect().status_code == 200
    (exchange,) = application.exchanges("request_token")
    headers = {name.lower(): value for name, value in exchange.request_headers}
    assert headers["x-psu-user-agent"] == (user_agent[:1024] or "unknown")


def test_a_refusal_at_the_bank_connects_nothing_and_can_be_repeated(
    application: Application,
) -> None:
    customer = application.customer()
    page = customer.call_back(refused(customer.begin()))
    assert page.status_code == 400
    assert "You did not agree" in page.text
    assert application.exchanges("request_token") == []
    assert customer.connect().status_code == 200


def test_a_callback_that_is_loaded_again_exchanges_nothing(application: Application) -> None:
    customer = application.customer()
    callback = agreed(customer.begin())
    assert customer.call_back(callback).status_code == 200
    again = customer.call_back(callback)
    assert again.status_code == 400
    assert "used already" in again.text
    assert len(application.exchanges("request_token")) == 1
    # The bank would have revoked the tokens after a second exchange.
    assert customer.get(ACCOUNTS).status_code == 200


def test_a_reload_during_the_exchange_exchanges_nothing(application: Application) -> None:
    customer = application.customer()
    first, second = customer.call_back_twice(agreed(customer.begin()))
    assert (first.status_code, second.status_code) == (200, 400)
    assert len(application.exchanges("request_token")) == 1
    assert customer.get(ACCOUNTS).status_code == 200


@pytest.mark.parametrize("query", ["", "code=fake-code&state=wrong", "error=access_denied"])
def test_a_callback_of_another_site_does_not_end_the_login(
    application: Application, query: str
) -> None:
    customer = application.customer()
    callback = agreed(customer.begin())
    page = customer.call_back(f"/callback?{query}")
    assert page.status_code == 400
    assert "belongs to no login of yours" in page.text
    assert application.exchanges("request_token") == []
    assert customer.call_back(callback).status_code == 200


def test_a_callback_of_another_customer_exchanges_nothing(application: Application) -> None:
    one, other = application.customer("u-1"), application.customer("u-2")
    callback = agreed(one.begin())
    assert other.call_back(callback).status_code == 400
    other.begin()
    assert other.call_back(callback).status_code == 400
    assert application.exchanges("request_token") == []
    assert one.call_back(callback).status_code == 200


@pytest.mark.parametrize("in_order", [True, False], ids=["in order", "crossed"])
def test_two_banks_are_connected_at_once_in_two_tabs(
    application: Application, in_order: bool
) -> None:
    customer = application.customer()
    callbacks = [agreed(customer.begin(bank)) for bank in (BANK, OTHER_BANK)]
    pages = [customer.call_back(each) for each in (callbacks if in_order else callbacks[::-1])]
    assert [page.status_code for page in pages] == [200, 200]
    names = ["Musterbank Streng", "Musterbank Mild"]
    for page, name in zip(pages, names if in_order else names[::-1], strict=True):
        assert f"Accounts at {name}" in page.text
    assert customer.get("/").text.count(">Connected<") == 2


def test_a_callback_after_another_customer_has_signed_in_exchanges_nothing(
    application: Application,
) -> None:
    customer = application.customer("u-1")
    callback = agreed(customer.begin())
    customer.post("/sign-out")
    customer.sign_in("u-2")
    page = customer.call_back(callback)
    assert page.status_code == 400
    assert "belongs to no login of yours" in page.text
    assert application.exchanges("request_token") == []
    customer.post("/sign-out")
    customer.sign_in("u-1")
    assert customer.call_back(callback).status_code == 200
    assert application.form_values("username") == ["u-1"]


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST"])
def test_only_a_get_of_the_callback_exchanges_the_code(
    application: Application, method: str
) -> None:
    customer = application.customer()
    callback = agreed(customer.begin())
    assert customer.send_other(method, callback).status_code in {403, 405}
    assert application.exchanges("request_token") == []
    assert customer.call_back(callback).status_code == 200


def test_a_code_that_has_expired_leads_to_a_new_consent(application: Application) -> None:
    customer = application.customer()
    callback = agreed(customer.begin())
    application.sandbox.clock.advance(seconds=31)
    page = customer.call_back(callback)
    assert page.status_code == 403
    assert "Connect Musterbank Streng" in page.text
    assert customer.connect().status_code == 200


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_of_the_banks_api_asks_for_a_new_consent(
    application: Application, status: int
) -> None:
    customer = application.customer()
    customer.connect()
    refusal = Fault("refusal", executes=False, change=lambda each: evolve(each, status=status))
    application.sandbox.fail(refusal, operation="list_accounts", times=2)
    page = customer.get(ACCOUNTS)
    assert page.status_code == 403
    assert "Connect Musterbank Streng" in page.text


def test_an_api_that_fails_is_reported_as_the_banks_failure(application: Application) -> None:
    customer = application.customer()
    customer.connect()
    application.sandbox.fail("internal-server-error", operation="list_accounts")
    page = customer.get(ACCOUNTS)
    assert page.status_code == 502
    assert "Connect Musterbank" not in page.text
    assert customer.get(ACCOUNTS).status_code == 200


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", b"[]", b'{"accounts": null}'])
def test_a_success_without_accounts_is_reported_as_the_banks_failure(
    application: Application, body: bytes
) -> None:
    customer = application.customer()
    customer.connect()
    odd = Fault("odd", executes=False, change=lambda each: evolve(each, status=200, body=body))
    application.sandbox.fail(odd, operation="list_accounts")
    page = customer.get(ACCOUNTS)
    assert page.status_code == 502
    assert "The bank did not answer as expected" in page.text
    assert customer.get(ACCOUNTS).status_code == 200


def test_an_error_that_no_code_expects_shows_nothing(application: Application) -> None:
    customer = application.customer()
    customer.connect()
    # So deep that the parser raises what is no error of a value.
    body = b"[" * 100_000
    deep = Fault("deep", executes=False, change=lambda each: evolve(each, status=200, body=body))
    application.sandbox.fail(deep, operation="list_accounts")
    page = customer.get(ACCOUNTS)
    assert page.status_code == 500
    assert page.headers["Cache-Control"] == "no-store"
    assert "ecursion" not in page.text
    assert customer.get(ACCOUNTS).status_code == 200


def test_a_disconnection_that_the_bank_does_not_confirm_ends_the_use_all_the_same(
    application: Application,
) -> None:
    customer = application.customer()
    customer.connect()
    application.sandbox.fail("internal-server-error", operation="revoke_token", times=2)
    assert customer.post(f"/banks/{BANK}/disconnect").status_code == 503
    assert "Disconnect" not in customer.get("/").text
    assert customer.get(ACCOUNTS).status_code == 403


def test_a_customers_data_is_deleted_at_all_banks(application: Application) -> None:
    customer, other = application.customer("fake-deleted"), application.customer("u-2")
    other.connect()
    for bank in (BANK, OTHER_BANK):
        customer.connect(bank)
    assert customer.post("/forget").headers["Location"] == "/"
    assert "Sign in" in customer.get("/").text
    assert {"u-2"} <= application.stored_usernames()
    assert "fake-deleted" not in application.stored_usernames()
    customer.sign_in("fake-deleted")
    assert ">Connected<" not in customer.get("/").text
    assert customer.get(ACCOUNTS).status_code == 403
    assert customer.connect().status_code == 200


def test_with_a_store_that_cannot_be_used_no_code_is_spent_and_no_text_is_shown(
    application: Application,
) -> None:
    customer = application.customer()
    callback = agreed(customer.begin())
    with application.without_store():
        for page in (customer.get("/"), customer.call_back(callback)):
            assert page.status_code == 500
            assert "The fault is ours" in page.text
            assert "store" not in page.text.lower()
    assert application.exchanges("request_token") == []
    assert customer.connect().status_code == 200


def test_while_the_platform_is_unavailable_the_page_says_when_to_try_again(
    application: Application,
) -> None:
    customer = application.customer()
    customer.connect()
    application.sandbox.clock.advance(hours=24)
    application.sandbox.fail("service-unavailable", operation="request_token")
    page = customer.get(ACCOUNTS)
    assert (page.status_code, page.headers["Retry-After"]) == (503, "2")
    assert "Try again in 2 seconds" in page.text
    application.sandbox.clock.advance(seconds=3)
    assert customer.get(ACCOUNTS).status_code == 200


def test_an_exchange_that_the_platform_refuses_can_be_repeated(application: Application) -> None:
    customer = application.customer()
    application.sandbox.fail("service-unavailable", operation="request_token")
    page = customer.connect()
    assert (page.status_code, page.headers["Retry-After"]) == (503, "2")
    assert "Connect Musterbank Streng" in page.text
    assert customer.connect().status_code == 200


def test_an_uncertain_exchange_leads_to_a_new_consent(application: Application) -> None:
    customer = application.customer()
    application.sandbox.fail("gateway-timeout-after", operation="request_token")
    page = customer.connect()
    assert page.status_code == 502
    assert "unknown whether it worked" in page.text
    assert customer.connect().status_code == 200


def test_after_a_revocation_at_the_bank_the_customer_consents_again(
    application: Application,
) -> None:
    customer, sandbox = application.customer(), application.sandbox
    customer.connect()
    sandbox.banks[BANK].withdraw(sandbox.settings().client_id, customer.username)
    sandbox.clock.advance(hours=24)
    page = customer.get(ACCOUNTS)
    assert page.status_code == 403
    assert "The bank needs your consent" in page.text
    # Nothing can end, so it asks nothing.
    assert customer.connect().status_code == 200


def test_a_second_consent_is_confirmed_first(application: Application) -> None:
    customer = application.customer()
    customer.connect()
    page = customer.post(f"/banks/{BANK}/connect")
    assert page.status_code == 200
    assert "Connect Musterbank Streng again?" in page.text
    assert customer.get(ACCOUNTS).status_code == 200
    assert customer.call_back(agreed(customer.begin(confirmed="true"))).status_code == 200


def test_customers_see_their_own_accounts_only(application: Application) -> None:
    one, other = application.customer("u-1"), application.customer("u-2")
    one.connect()
    assert one.get(ACCOUNTS).status_code == 200
    assert other.get(ACCOUNTS).status_code == 403
    assert len(application.exchanges("list_accounts")) == 2
    assert other.post(f"/banks/{BANK}/disconnect").status_code == 403
    other.connect()
    assert other.post(f"/banks/{BANK}/disconnect").is_redirect
    assert one.get(ACCOUNTS).status_code == 200


def test_many_requests_at_the_same_time_cause_one_refresh(application: Application) -> None:
    customer = application.customer()
    customer.connect()
    application.sandbox.clock.advance(hours=24)
    pages = customer.get_at_once(ACCOUNTS, 10)
    assert [page.status_code for page in pages] == [200] * 10
    assert application.form_values("grant_type") == ["authorization_code", "refresh_token"]


def test_who_is_not_signed_in_is_led_to_the_sign_in(application: Application) -> None:
    customer = application.customer()
    callback = agreed(customer.begin())
    customer.post("/sign-out")
    for path in (ACCOUNTS, callback):
        response = customer.get(path)
        assert response.is_redirect
        assert response.headers["Location"] == "/"
    assert application.exchanges("request_token") == []


def test_a_bank_that_is_not_offered_is_not_found(application: Application) -> None:
    assert application.customer().get("/banks/IIDX99999/accounts").status_code == 404


def test_a_form_of_another_site_is_refused(application: Application) -> None:
    customer = application.customer()
    customer.connect()
    for path in (f"/banks/{BANK}/disconnect", "/sign-out", "/sign-in"):
        assert customer.post_from_another_site(path).status_code == 403
    assert customer.get(ACCOUNTS).status_code == 200


def test_a_session_from_before_the_sign_in_is_not_signed_in(application: Application) -> None:
    browser = application.customer()
    browser.post("/sign-out")
    browser.get("/")
    planted = httpx.Cookies(browser.cookies)
    browser.sign_in("u-1")
    assert "Your banks" in browser.get("/").text
    browser.use_cookies(planted)
    assert "Sign in" in browser.get("/").text


def test_the_session_is_kept_from_scripts_and_other_sites(application: Application) -> None:
    response = application.customer().sign_in("u-2")
    (cookie,) = response.headers.get_list("Set-Cookie")
    attributes = {part.strip().lower() for part in cookie.split(";")}
    assert {"httponly", "samesite=lax", "max-age=3600"} <= attributes


def test_no_page_is_stored_framed_or_named_to_another_site(application: Application) -> None:
    customer = application.customer()
    for path in ("/", ACCOUNTS, "/nowhere"):
        headers = customer.get(path).headers
        assert headers["Cache-Control"] == "no-store"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Referrer-Policy"] in {"no-referrer", "same-origin"}


def test_no_log_record_and_no_page_contains_a_secret(
    application: Application, caplog: pytest.LogCaptureFixture
) -> None:
    # Not below: there Django's templates log all that a page gets.
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "blink_oauth_keeper")
    customer, sandbox = application.customer("fake-username"), application.sandbox
    url = customer.begin()
    callback = agreed(url)
    shown = [customer.call_back(callback).text, customer.call_back(callback).text]
    sandbox.fail("gateway-timeout-after", operation="request_token")
    shown.append(customer.call_back(agreed(customer.begin(confirmed="true"))).text)
    sandbox.clock.advance(hours=24)
    sandbox.fail("not-json", operation="request_token")
    shown.append(customer.get(ACCOUNTS).text)
    messages = [
        logging.Formatter().format(record)
        for record in caplog.records
        # The browser of this test logs its addresses there.
        if record.name != "httpx" or ACCOUNTS_API in record.getMessage()
    ]
    assert sum("UnreadableResponseError: " in message for message in messages) == 1
    assert any(ACCOUNTS_API in message for message in messages)
    (code, state) = (each.partition("=")[2] for each in callback.partition("?")[2].split("&"))
    for secret in (code, state, "fake-access", "fake-refresh"):
        assert secret not in "".join(shown)
        assert secret not in "".join(messages)
    assert "fake-username" not in "".join(messages)
