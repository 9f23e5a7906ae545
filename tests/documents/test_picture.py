"""The picture of the states of a grant shows what a store does."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

import token_life
from blink_oauth_keeper import State
from token_life import picture, transitions

IN_A_STATUS_ONLY = {State.NEEDS_ATTENTION, State.UNREADABLE}


def test_every_stored_state_is_in_the_picture() -> None:
    texts = [each.text for each in ET.fromstring(picture()).iter() if each.get("class") == "name"]
    assert sorted(map(str, texts)) == sorted({*State} - IN_A_STATUS_ONLY)


def test_a_claim_leads_to_refreshing_alone_and_only_from_two_states() -> None:
    ends = {(before, after) for name, before, after in transitions() if name == "claim"}
    assert ends == {
        (State.ACTIVE, State.REFRESHING),
        (State.UNCERTAIN, State.REFRESHING),
    }


def test_a_revoked_grant_becomes_usable_by_a_new_consent_alone() -> None:
    revoked = {State.REVOKING, State.REVOKED, State.FORGOTTEN}
    leaving = {
        name for name, before, after in transitions() if before in revoked and after not in revoked
    }
    assert leaving == {"authorize"}


def test_each_transition_has_an_arrow_or_is_part_of_one_of_two() -> None:
    paths = len(re.findall(r"marker-end", picture()))
    grouped = {"authorize", "revoke"}
    single = {(before, after) for name, before, after in transitions() if name not in grouped}
    assert paths == len(single) + len(grouped)


def test_the_picture_is_described_in_words() -> None:
    words = re.search("<desc[^>]*>(.*)</desc>", picture())
    assert words is not None
    for name, before, after in transitions():
        assert f"{name}: {before or 'nothing'} to {after}" in words[1]


def test_a_state_without_a_place_stops_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(token_life.CENTERS, State.REVOKED)
    with pytest.raises(KeyError):
        picture()


def test_the_picture_loads_nothing() -> None:
    assert re.findall(r"https?://|@import|<image|<script|url\((?!#)", picture()) == []
