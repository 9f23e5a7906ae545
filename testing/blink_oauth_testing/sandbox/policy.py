"""How each bank of the sandbox treats codes and tokens."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

OnReuse = Literal["revoke_family", "refuse"]
DAY = 86_400.0


@frozen
class BankPolicy:
    """How one bank treats codes and tokens.

    Attributes:
        target_id: The id of the bank in bLink's directory.
        name: Its name, for the consent page.
        rotates: Each refresh spends the refresh token and gives a new one.
        on_reuse: What a second use of a spent refresh token does, besides being refused.
        replay_window: Seconds, counted from the first use, in which a spent refresh token may be
            presented again and gives a fresh pair each time. The pairs given before stay good: a
            window is there for the client whose answer was lost, and the bank cannot tell which of
            its answers arrived (FAPI 2.0 Security Profile section 5.3.2.1, note 1). Without
            rotation it means nothing.
        repeats_refresh_token: A bank that does not rotate repeats the refresh token in the answer
            to a refresh; otherwise it leaves it out (RFC 6749 section 6).
        access_token_lifetime: Seconds; the platform recommends 24 hours.
        refresh_token_lifetime: Seconds; counted anew from each refresh.
        code_lifetime: Seconds.
        one_token_per_contract: A new consent of the same client and username ends the one before,
            and tells nobody: the next refresh fails, and the accounts answer 401. bLink's page on
            token management says that some providers allow one token per contract; that one
            username has one contract is the sandbox's own simplification.
        consent_page: The authorize endpoint asks a person, instead of giving a code at once.
        answer_after: Seconds that pass between the bank's decision on a token request and the
            answer, be it right or a fault. They really pass, whatever the sandbox's clock says.
    """

    target_id: str
    name: str
    rotates: bool = True
    on_reuse: OnReuse = "revoke_family"
    replay_window: float = 0.0
    repeats_refresh_token: bool = False
    access_token_lifetime: float = DAY
    refresh_token_lifetime: float = 30 * DAY
    code_lifetime: float = 30.0
    one_token_per_contract: bool = False
    consent_page: bool = False
    answer_after: float = 0.0


# Obviously made up: the country's check digits do not match.
ACCOUNTS = (
    {"id": "1", "iban": "CH0000000000000000001", "currency": "CHF", "name": "Fake current account"},
    {"id": "2", "iban": "CH0000000000000000002", "currency": "EUR", "name": "Fake savings account"},
)
"""The accounts of every customer of every bank."""

DEFAULT_BANKS = (
    BankPolicy("IIDX00001", "Musterbank Streng"),
    BankPolicy("IIDX00002", "Musterbank Mild", rotates=False),
)
"""One bank that rotates and revokes on reuse, one whose refresh token stays the same."""
