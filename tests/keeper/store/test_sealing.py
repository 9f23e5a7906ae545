"""A sealed pair is unreadable and opens for its binding only; keys are never shown."""

from __future__ import annotations

import base64
import json
import re
import traceback
from collections.abc import Sequence
from itertools import pairwise

import pytest
from attrs import evolve
from cryptography.fernet import Fernet

from blink_oauth.errors import InvalidInputError
from blink_oauth.tokens import Secret
from blink_oauth_keeper.errors import SealError
from blink_oauth_keeper.store.sealing import (
    Binding,
    Key,
    Sealed,
    Sealer,
    key_id,
    new_key,
    sealer_for,
)
from blink_oauth_testing.store_contract.harness import grant_key, pair

BINDING = Binding(grant_key(), generation=7, consent=2)
OTHER_BINDINGS = {
    "another client": evolve(BINDING, key=grant_key(client="CIDX0000000003")),
    "another target": evolve(BINDING, key=grant_key(target="IIDX00001")),
    "another username": evolve(BINDING, key=grant_key("other")),
    "an older generation": evolve(BINDING, generation=6),
    "an older consent": evolve(BINDING, consent=1),
}
INVALID_KEYS = {
    "too short": base64.urlsafe_b64encode(b"fake-key").decode(),
    "not base64": "fake-key-that-is-as-long-as-a-real-one-but-is-none",
    "not ASCII": "fake-kéy",
    "empty": "",
    "bytes": b"fake-key",
    "secret": Secret("fake-key"),
}


def sealer(*keys: Secret, fingerprint_key: str | None = None) -> Sealer:
    """Return a sealer with these keys."""
    made = sealer_for(keys, fingerprint_key)
    assert isinstance(made, Sealer)
    return made


def forged(key: Secret, **changes: object) -> Sealed:
    """Return a pair that is sealed with the right key, but with changed members."""
    sealed = sealer(key).seal(BINDING, pair("a"))
    fernet = Fernet(key.reveal())
    members = json.loads(fernet.decrypt(sealed.text)) | changes
    return evolve(sealed, text=fernet.encrypt(json.dumps(members).encode()).decode())


def test_a_sealed_pair_is_unreadable_and_different_each_time() -> None:
    own = sealer(new_key())
    one, two = own.seal(BINDING, pair("a")), own.seal(BINDING, pair("a"))
    assert one.text != two.text
    for hidden in ("fake-", BINDING.key.client_id, BINDING.key.grant.username):
        assert hidden not in one.text
        assert hidden.encode() not in base64.urlsafe_b64decode(one.text)
    assert own.open(BINDING, one) == own.open(BINDING, two) == pair("a")


def test_unknown_members_are_sealed_with_the_pair() -> None:
    own, extra = sealer(new_key()), {"id_token": "fake-id-token", "refresh_expires_in": 7}
    received = evolve(pair("a"), extra=extra)
    sealed = own.seal(BINDING, received)
    assert "fake-id-token" not in sealed.text
    assert own.open(BINDING, sealed) == received


def test_a_sealed_text_with_unknown_members_has_everything_that_one_without_has() -> None:
    # An earlier version reads the members that it knows by name; so does this one.
    key = new_key()
    fernet, own = Fernet(key.reveal()), sealer(key)
    received = evolve(pair("a"), extra={"id_token": "fake-id-token"})
    without, with_extra = (
        json.loads(fernet.decrypt(own.seal(BINDING, token).text)) for token in (pair("a"), received)
    )
    assert with_extra == without | {"extra": received.extra}
    assert own.open(BINDING, forged(key, unknown="member")) == pair("a")


@pytest.mark.parametrize("binding", OTHER_BINDINGS.values(), ids=OTHER_BINDINGS)
def test_a_pair_does_not_open_for_another_binding(binding: Binding) -> None:
    own = sealer(new_key())
    with pytest.raises(SealError, match="was not sealed for this row") as caught:
        own.open(binding, own.seal(BINDING, pair("a")))
    assert not caught.value.retryable


def test_an_altered_text_does_not_open() -> None:
    own = sealer(new_key())
    sealed = own.seal(BINDING, pair("a"))
    swapped = "A" if sealed.text[40] != "A" else "B"
    for text in (
        "",
        "nonsense",
        "é",
        sealed.text[:-4],
        sealed.text[:40] + swapped + sealed.text[41:],
    ):
        with pytest.raises(SealError, match="altered"):
            own.open(BINDING, evolve(sealed, text=text))


@pytest.mark.parametrize("name", ["access_token", "expires_at", "scope", "oddities"])
def test_a_sealed_text_with_an_invalid_member_does_not_open_and_shows_no_token(name: str) -> None:
    key = new_key()
    with pytest.raises(SealError) as caught:
        sealer(key).open(BINDING, forged(key, **{name: 4711}))
    shown = "".join(
        traceback.TracebackException.from_exception(caught.value, capture_locals=True).format()
    )
    assert "fake-refresh-token" not in shown


def test_oddities_and_members_of_a_newer_version_are_ignored() -> None:
    key = new_key()
    sealed = forged(key, oddities=["unknown_oddity"], unknown_member="value")
    assert sealer(key).open(BINDING, sealed) == pair("a")


def test_the_error_for_a_missing_key_names_it_and_the_given_keys() -> None:
    own, other = sealer(new_key()), sealer(new_key(), new_key())
    sealed = other.seal(BINDING, pair("a"))
    assert sealed.key_id == other.key_ids[0] != other.key_ids[1]
    with pytest.raises(SealError, match="not among those given") as caught:
        own.open(BINDING, sealed)
    assert sealed.key_id in str(caught.value)
    assert own.key_ids[0] in str(caught.value)


def test_a_wrong_key_with_the_right_id_does_not_open() -> None:
    own, other = sealer(new_key()), sealer(new_key())
    sealed = other.seal(BINDING, pair("a"))
    with pytest.raises(SealError, match="altered"):
        own.open(BINDING, evolve(sealed, key_id=own.key_ids[0]))


def test_the_first_key_seals_and_all_keys_open() -> None:
    old, new = new_key(), new_key()
    both = sealer(new, old)
    assert both.open(BINDING, sealer(old).seal(BINDING, pair("a"))) == pair("a")
    assert sealer(new).open(BINDING, both.seal(BINDING, pair("b"))) == pair("b")


def test_keys_may_be_str_bytes_or_secret() -> None:
    key = new_key()
    forms: list[Sequence[Key]] = [[key], [key.reveal()], [key.reveal().encode()], (key, key)]
    names = {made.key_ids for form in forms if isinstance(made := sealer_for(form, None), Sealer)}
    assert len(names) == 1
    assert key.reveal() not in str(names)


@pytest.mark.parametrize("bad", INVALID_KEYS.values(), ids=INVALID_KEYS)
def test_an_invalid_key_is_refused_and_not_shown(bad: str | bytes | Secret) -> None:
    problem = sealer_for([new_key(), bad], None)
    assert isinstance(problem, InvalidInputError)
    assert str(problem).startswith("Key 2 of 2 is no Fernet key")
    assert "fake" not in str(problem)


@pytest.mark.parametrize(
    "bad",
    [[], (), None, new_key().reveal(), new_key(), b"fake-key"],
    ids=["empty list", "empty tuple", "None", "str", "secret", "bytes"],
)
def test_keys_that_are_empty_or_no_list_are_refused(bad: list[str]) -> None:
    problem = sealer_for(bad, None)
    assert isinstance(problem, InvalidInputError)
    assert re.match("keys is empty|The argument keys must be a list of keys", str(problem))


def test_a_fingerprint_is_short_and_the_same_until_its_key_is_removed() -> None:
    old, new = sorted((new_key(), new_key()), key=lambda key: key_id(key) or "")
    before = sealer(old).fingerprint("fake-access-token")
    assert len(before) == 16
    assert int(before, 16) >= 0
    assert sealer(new, old).fingerprint("fake-access-token") == before
    assert sealer(old, new).fingerprint("fake-access-token") == before
    assert sealer(new, old).fingerprint("fake-access-tokeN") != before
    assert sealer(new).fingerprint("fake-access-token") != before


def test_fingerprints_change_at_most_once_in_a_rotation() -> None:
    for _ in range(8):
        old, new = new_key(), new_key()
        steps = [(old,), (old, new), (new, old), (new,)]
        shown = [sealer(*keys).fingerprint("fake-access-token") for keys in steps]
        assert sum(one != two for one, two in pairwise(shown)) == 1


def test_a_separate_fingerprint_key_keeps_fingerprints_when_keys_change() -> None:
    one = sealer(new_key(), fingerprint_key="fake-fingerprint-key")
    two = sealer(new_key(), fingerprint_key="fake-fingerprint-key")
    assert one.fingerprint("é") == two.fingerprint("é")
    assert isinstance(sealer_for([new_key()], ""), InvalidInputError)


def test_a_new_key_is_random_and_hidden() -> None:
    assert new_key() != new_key()
    assert new_key().reveal() not in repr(new_key())
    assert isinstance(sealer_for([new_key()], None), Sealer)
