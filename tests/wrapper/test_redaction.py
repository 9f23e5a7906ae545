"""No text of an error contains a secret, in whatever spelling the server returns it."""

from __future__ import annotations

import base64
import html
import json
import time
from collections.abc import Callable
from urllib.parse import quote

import pytest

from blink_oauth import BlinkError, OAuthError, ProblemError, StatusError
from wrapper.harness import GRANT, Platform, connected, reply

SECRET = "fake-8sJq2+Xv/Lz4Kd0Wp9R_tYb7uN3"
STRUCK_OUT = "The token *** is bad."
LEFT_OUT = "*** (left out: it resembles a secret)"


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def between(characters: str) -> Callable[[str], str]:
    """Return a spelling with something between all characters."""
    return characters.join


def escaped(form: str) -> Callable[[str], str]:
    """Return a spelling with every character as an escape."""
    return lambda secret: "".join(form.format(ord(c), c) for c in secret)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "in a URL": lambda s: quote(s, safe=""),
    "in a URL, twice": lambda s: quote(quote(s, safe=""), safe=""),
    "in a URL, three times, in lower case": lambda s: quote(quote(quote(s))).lower(),
    "every character in percent": escaped("%{0:02x}"),
    "JSON with an escaped slash": lambda s: s.replace("/", "\\/"),
    "JSON within JSON": lambda s: json.dumps(json.dumps(s.replace("/", "\\/"))),
    "JSON with every character escaped": escaped("\\u{0:04x}"),
    "every character in hexadecimal escapes": escaped("\\x{0:02X}"),
    "HTML": lambda s: html.escape(s).replace("+", "&#x2B;"),
    "HTML with every character escaped": escaped("&#{0};"),
    "HTML with every character escaped in hexadecimal, twice": escaped("&amp;#x{0:x};"),
    "HTML within a URL": lambda s: quote(escaped("&#{0};")(s)),
    "upper case": str.upper,
    "lower case": str.lower,
    "quoted-printable": escaped("={0:02X}"),
    "quoted-printable with soft line breaks": lambda s: f"{s[:5]}=\r\n{s[5:12]}=\r\n{s[12:]}",
    "hexadecimal": lambda s: s.encode().hex(),
    "hexadecimal with colons": lambda s: s.encode().hex(":"),
    "a list of bytes in hexadecimal": lambda s: " ".join(f"0x{c:02x}," for c in s.encode()),
    "a list of bytes": lambda s: str(list(s.encode())),
    "base64": in_base64,
    "base64 without padding": lambda s: in_base64(s).rstrip("="),
    "base64 for URLs": lambda s: base64.urlsafe_b64encode(s.encode()).decode(),
    "base64 at the second offset": lambda s: in_base64("c:" + s),
    "base64 at the third offset": lambda s: in_base64("client:" + s + "@host"),
    "base64 of UTF-16": lambda s: base64.b64encode(s.encode("utf-16-le")).decode(),
    "base64 of base64": lambda s: in_base64(in_base64(s)),
    "base64 in lines": lambda s: "\n".join(in_base64(s)[i : i + 9] for i in range(0, 60, 9)),
    "base64 in a URL": lambda s: quote(in_base64("x" + s), safe=""),
    "NUL between": between("\0"),
    "control characters between": between("\x1b\x07"),
    "zero-width characters between": between("\u200b\u2060\ufeff"),
    "soft hyphens between": between("\xad"),
    "variation selectors between": between("\ufe0f"),
    "line breaks between": between("\r\n"),
    "escaped line breaks between": between("\\n"),
    "one NUL inside": lambda s: s[:9] + "\0" + s[9:],
    "one line break inside": lambda s: s[:16] + "\n  " + s[16:],
    "full-width characters": lambda s: "".join(chr(ord(c) + 0xFEE0) for c in s),
    "reversed": lambda s: s[::-1],
    "the first 20 characters": lambda s: s[:20],
    "the last 12 characters": lambda s: s[-12:],
    "8 characters of the middle": lambda s: s[9:17],
    "masked in the middle": lambda s: f"{s[:10]}…{s[-4:]}",
    "the first 20 characters in base64": lambda s: in_base64(s[:20]),
    "the first 20 characters in percent": lambda s: escaped("%{0:02x}")(s[:20]),
}
PLACES: dict[str, Callable[[str], dict[str, object]]] = {
    "error": lambda text: {"error": text},
    "description": lambda text: {"error": "invalid_request", "error_description": text},
    "uri": lambda text: {"error": "invalid_request", "error_uri": text},
    "type": lambda text: {"type": text, "title": "No"},
    "title": lambda text: {"title": text},
    "detail": lambda text: {"title": "No", "detail": text},
    "instance": lambda text: {"title": "No", "instance": text},
}


def error_of(body: object, secret: str = SECRET) -> BlinkError:
    """Return the error of a refresh to which the server responds with an error body."""
    # The texts are read by the same functions in both flavours.
    platform = Platform(reply(400, body))
    with connected("sync", platform) as blink, pytest.raises(BlinkError) as caught:
        blink.refresh(GRANT, secret)
    return caught.value


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_a_secret_is_struck_out_in_every_spelling_or_its_text_is_left_out(
    spell: Callable[[str], str],
) -> None:
    text = f"The token {spell(SECRET)} is bad."
    for place, body in PLACES.items():
        error = error_of(body(text))
        assert getattr(error, place) in {STRUCK_OUT, LEFT_OUT}
        assert spell(SECRET) not in str(error)
    error = error_of({"tppMessages": [{"code": text}, {"code": "X", "text": text}]})
    assert isinstance(error, StatusError)
    assert error.codes in {(STRUCK_OUT, "X"), (LEFT_OUT, "X")}
    assert spell(SECRET) not in str(error)


SECRETS = {
    "a token with words": "fake-refresh-token-of-the-access/4711",
    "a UUID": "550e8400-e29b-41d4-a716-446655440000",
    "letters": "qwfpgjluyarstdhneiozxcvbkm",
    "nine characters": "fake-abc1",
    "a token of ten thousand characters": SECRET * 320,
    "a token in Unicode": "fake-tökén-8sJq2-ключ",
}
FORMS = ["plain", "in a URL, twice", "JSON with every character escaped", "base64", "NUL between"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())
def test_secrets_of_every_kind_are_recognized(secret: str, form: str) -> None:
    text = f"The token {SPELLINGS[form](secret)} is bad."
    error = error_of({"title": text}, secret)
    assert isinstance(error, ProblemError)
    # The end of a very long text is not shown.
    assert error.title in {STRUCK_OUT, LEFT_OUT, STRUCK_OUT.removesuffix(" is bad.")}


@pytest.mark.parametrize(
    "secret", ["x", "ab", "400", "code", "token", "4711", *SECRETS.values()], ids=lambda s: s[:12]
)
@pytest.mark.parametrize(
    "text",
    [
        "The refresh token is invalid, expired or revoked.",
        "The provided access grant is invalid for client_id CIDX0000000002 (code 17).",
        "UK.OBIE.Resource.InvalidConsentStatus: consent not authorised",
        "AADSTS70008: the grant has expired due to inactivity since 2026-11-26T08:13:39.123Z.",
        "See https://bank.example/v2/docs/errors?lang=de#consent_expired_or_revoked",
        "Trace 6f1f9a52-1f6b-4b0e-9a53-6c9f4c0e2d11, span 00f067aa0ba902b7",
        "Die Zustimmung für das Konto gilt nicht mehr (100 % sicher).",
    ],
)
def test_an_ordinary_text_is_repeated_as_it_is(secret: str, text: str) -> None:
    shown = getattr(error_of({"title": text}, secret), "title")  # noqa: B009
    # A short secret, which is a word here, is struck out as that word.
    assert shown in {text, *(text.replace(word, "***") for word in ("token", "code"))}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x is bad, ax-x: xx", "*** is bad, ax-***: xx"),
        ("error=x&x", "error=***&***"),
    ],
)
def test_a_very_short_secret_is_struck_out_where_it_stands_alone(text: str, shown: str) -> None:
    error = error_of({"title": text}, "x")
    assert isinstance(error, ProblemError)
    assert error.title == shown


@pytest.mark.parametrize(
    "other",
    [
        "eyJhbGciOiJub25lIn0.eyJmYWtlIjoxfQ.",
        "eyJhbGciOiJSUzI1NiJ9.eyJmYWtlIjoxfQ.ZmFrZS1zaWduYXR1cmU",
        "fake8sJq2XvLz4Kd0Wp9R",
        "fake-8sJq2-XvLz4_Kd0Wp9R",
        "ZmFrZS1yZWZyZXNoLTgxMTE2NDcxMQ==",
        "66616b652d726566726573682d3831",
    ],
)
def test_a_long_random_run_is_struck_out_because_it_may_be_another_secret(other: str) -> None:
    error = error_of({"title": f"The token {other} is bad."}, "fake-0")
    assert isinstance(error, ProblemError)
    assert error.title == STRUCK_OUT


def test_a_received_token_is_redacted_as_well() -> None:
    body = {"error": "x", "access_token": SECRET, "error_description": SECRET[:14].upper()}
    error = error_of(body, "fake-0")
    assert isinstance(error, OAuthError)
    assert error.description == LEFT_OUT


def test_a_part_of_a_secret_at_the_end_of_a_shortened_text_is_recognized() -> None:
    error = error_of({"title": "e" * 280 + " " + SECRET.upper()})
    assert isinstance(error, ProblemError)
    assert error.title == LEFT_OUT


ENDLESS = {
    "percent": "%25" * 300_000,
    "entities": "&amp;" * 200_000,
    "backslashes": "\\" * 300_000,
    "hexadecimal": "0a " * 300_000,
    "letters": "a" * 900_000,
    "ligatures": "\ufdfa" * 50_000,
}


@pytest.mark.parametrize("text", ENDLESS.values(), ids=ENDLESS.keys())
def test_an_endless_text_takes_no_longer_than_a_short_one(text: str) -> None:
    error_of({"title": "warm up"}, SECRET * 30_000)
    began = time.process_time()
    error = error_of({"title": text}, SECRET * 30_000)
    assert isinstance(error, ProblemError)
    assert error.title is not None
    assert len(error.title) <= 300
    assert time.process_time() - began < 2
