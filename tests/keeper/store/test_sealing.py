"""A sealed pair shows nothing, opens in its own place only, and keys are never shown."""

from __future__ import annotations

import base64
import json
import traceback
from collections.abc import Sequence

import pytest
from attrs import evolve
from cryptography.fernet import Fernet

from blink_oauth.errors import InvalidInputError
from blink_oauth.tokens import Secret
from blink_oauth_keeper.errors import SealError
from blink_oauth_keeper.store.sealing import Key, Place, Sealed, Sealer, new_key, sealer_for
from blink_oauth_testing.store_contract.harness import grant_key, pair

HERE = Place(grant_key(), generation=7, consent=2)
ELSEWHERE = {
    "another client": evolve(HERE, key=grant_key(client="CIDX0000000003")),
    "another target": evolve(HERE, key=grant_key(target="IIDX00001")),
    "another user": evolve(HERE, key=grant_key("other")),
    "an older generation": evolve(HERE, generation=6),
    "an older consent": evolve(HERE, consent=1),
}
NO_KEYS = {
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
    """Return what is sealed with the right key, by somebody who writes something else into it."""
    sealed = sealer(key).seal(HERE, pair("a"))
    fernet = Fernet(key.reveal())
    members = json.loads(fernet.decrypt(sealed.text)) | changes
    return evolve(sealed, text=fernet.encrypt(json.dumps(members).encode()).decode())


def test_a_sealed_pair_shows_nothing_and_is_never_the_same_twice() -> None:
    mine = sealer(new_key())
    one, two = mine.seal(HERE, pair("a")), mine.seal(HERE, pair("a"))
    assert one.text != two.text
    for hidden in ("fake-", HERE.key.client_id, HERE.key.grant.username):
        assert hidden not in one.text
        assert hidden.encode() not in base64.urlsafe_b64decode(one.text)
    assert mine.open(HERE, one) == mine.open(HERE, two) == pair("a")


@pytest.mark.parametrize("place", ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_pair_does_not_open_in_another_place(place: Place) -> None:
    mine = sealer(new_key())
    with pytest.raises(SealError, match="was not sealed for this row") as caught:
        mine.open(place, mine.seal(HERE, pair("a")))
    assert not caught.value.retryable


def test_an_altered_text_does_not_open() -> None:
    mine = sealer(new_key())
    sealed = mine.seal(HERE, pair("a"))
    swapped = "A" if sealed.text[40] != "A" else "B"
    for text in (
        "",
        "nonsense",
        "é",
        sealed.text[:-4],
        sealed.text[:40] + swapped + sealed.text[41:],
    ):
        with pytest.raises(SealError, match="altered"):
            mine.open(HERE, evolve(sealed, text=text))


@pytest.mark.parametrize("name", ["access_token", "expires_at", "scope", "oddities"])
def test_a_text_with_other_members_does_not_open_and_does_not_leak(name: str) -> None:
    key = new_key()
    with pytest.raises(SealError) as caught:
        sealer(key).open(HERE, forged(key, **{name: 4711}))
    told = "".join(
        traceback.TracebackException.from_exception(caught.value, capture_locals=True).format()
    )
    assert "fake-refresh-token" not in told


def test_what_a_newer_version_found_odd_is_left_out() -> None:
    key = new_key()
    sealed = forged(key, oddities=["smells_strange"], moon="full")
    assert sealer(key).open(HERE, sealed) == pair("a")


def test_a_key_that_is_not_given_is_named() -> None:
    mine, theirs = sealer(new_key()), sealer(new_key(), new_key())
    sealed = theirs.seal(HERE, pair("a"))
    assert sealed.key_id == theirs.key_ids[0] != theirs.key_ids[1]
    with pytest.raises(SealError, match="not among those given") as caught:
        mine.open(HERE, sealed)
    assert sealed.key_id in str(caught.value)
    assert mine.key_ids[0] in str(caught.value)


def test_a_wrong_key_under_the_right_name_does_not_open() -> None:
    mine, theirs = sealer(new_key()), sealer(new_key())
    sealed = theirs.seal(HERE, pair("a"))
    with pytest.raises(SealError, match="altered"):
        mine.open(HERE, evolve(sealed, key_id=mine.key_ids[0]))


def test_the_first_key_seals_and_all_open() -> None:
    old, new = new_key(), new_key()
    both = sealer(new, old)
    assert both.open(HERE, sealer(old).seal(HERE, pair("a"))) == pair("a")
    assert sealer(new).open(HERE, both.seal(HERE, pair("b"))) == pair("b")


def test_keys_may_be_text_bytes_or_secrets() -> None:
    key = new_key()
    forms: list[Sequence[Key]] = [[key], [key.reveal()], [key.reveal().encode()], (key, key)]
    names = {made.key_ids for form in forms if isinstance(made := sealer_for(form, None), Sealer)}
    assert len(names) == 1
    assert key.reveal() not in str(names)


@pytest.mark.parametrize("bad", NO_KEYS.values(), ids=NO_KEYS)
def test_what_is_no_key_is_refused_and_not_shown(bad: str | bytes | Secret) -> None:
    problem = sealer_for([new_key(), bad], None)
    assert isinstance(problem, InvalidInputError)
    assert str(problem).startswith("Key 2 of 2 is no Fernet key")
    assert "fake" not in str(problem)


@pytest.mark.parametrize(
    "bad",
    [[], (), None, new_key().reveal(), new_key(), b"fake-key"],
    ids=["list", "tuple", "None", "text", "secret", "bytes"],
)
def test_keys_are_a_list_that_is_not_empty(bad: list[str]) -> None:
    problem = sealer_for(bad, None)
    assert isinstance(problem, InvalidInputError)
    assert str(problem).startswith("keys ")


def test_a_fingerprint_is_short_and_the_same_until_its_key_goes() -> None:
    old, new = new_key(), new_key()
    before = sealer(old).fingerprint("fake-access-token")
    assert len(before) == 16
    assert int(before, 16) >= 0
    assert sealer(new, old).fingerprint("fake-access-token") == before
    assert sealer(new, old).fingerprint("fake-access-tokeN") != before
    assert sealer(new).fingerprint("fake-access-token") != before


def test_a_fingerprint_key_of_its_own_outlives_all_others() -> None:
    one = sealer(new_key(), fingerprint_key="fake-fingerprint-key")
    two = sealer(new_key(), fingerprint_key="fake-fingerprint-key")
    assert one.fingerprint("é") == two.fingerprint("é")
    assert isinstance(sealer_for([new_key()], ""), InvalidInputError)


def test_a_new_key_is_new_and_hidden() -> None:
    assert new_key() != new_key()
    assert new_key().reveal() not in repr(new_key())
    assert isinstance(sealer_for([new_key()], None), Sealer)
