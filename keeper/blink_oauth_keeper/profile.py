"""The profile of a target: how its tokens behave, and how often it may be called."""

from __future__ import annotations

import math
from enum import StrEnum

from attrs import Attribute, field, frozen

from blink_oauth.errors import InvalidInputError

__all__ = ["AfterUncertainty", "TargetProfile"]

HOUR = 3_600.0
DAY = 24 * HOUR


class AfterUncertainty(StrEnum):
    """How to treat a refresh token that was presented and may be spent."""

    REPLAY_ONCE = "replay_once"
    """Present it once more soon: banks that rotate may allow that for a short time.

    Source: FAPI 2.0 Security Profile section 5.3.2.1.
    """
    HOLD = "hold"
    """Present it once more only when the access token is about to expire.

    For banks with strict reuse detection: a replay may also invalidate the current access token.
    """


def _is_positive(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and value > 0  # type: ignore[arg-type,operator]


def _seconds(instance: object, attribute: Attribute[float], value: float) -> None:
    if not _is_positive(value):
        raise InvalidInputError(
            f"TargetProfile.{attribute.name} must be a number of seconds, finite and above zero, "
            "such as 3_600.0."
        )


def _rate(instance: object, attribute: Attribute[float | None], value: float | None) -> None:
    if value is not None and not _is_positive(value):
        raise InvalidInputError(
            "TargetProfile.rate must be a number of refreshes per second, finite and above zero, "
            "such as 5.0, or None for no limit."
        )


def _boolean(instance: object, attribute: Attribute[bool], value: bool) -> None:
    if not isinstance(value, bool):
        raise InvalidInputError(f"TargetProfile.{attribute.name} must be True or False.")


def _after_uncertainty(value: object) -> AfterUncertainty:
    try:
        return AfterUncertainty(str(value))
    except ValueError:
        names = " or ".join(f'"{name}"' for name in AfterUncertainty)
        raise InvalidInputError(
            f"TargetProfile.after_uncertainty must be {names}, but it is {str(value)!r}."
        ) from None


@frozen(kw_only=True)
class TargetProfile:
    """How to treat the tokens of one target. The defaults suit a bank with unknown behaviour.

    Args:
        rotates: Whether a refresh may spend the refresh token. Pass False only for a bank that
            never rotates: its refresh tokens are then presented again after every uncertain
            outcome, with growing pauses.
        after_uncertainty: What to do after an uncertain outcome if the bank may rotate.
        last_attempt: Whether, with `replay_once`, a refresh token is presented a third and last
            time after two uncertain outcomes: once the access token has expired, so that nothing
            is left to lose, and the bank responds again, or an hour has passed.
        advisory: Seconds before the expiry of an access token from which it is refreshed in the
            background, at most half its lifetime. The default is long, so that the old access
            token stays valid for hours after a failed refresh.
        mandatory: Seconds before the expiry from which callers wait for the new token, at most
            half its lifetime.
        default_lifetime: Seconds until an access token expires if the response does not say, or
            says less than a second or more than 31 days. The platform recommends 24 hours and
            promises nothing; the default is cautious.
        idle_lifetime: Seconds until an unused refresh token expires, if the response does not say.
        rate: Refreshes per second that one process sends to the target at most; None for no limit.

    Raises:
        InvalidInputError: A number is not finite or not above zero, or a value has another type.

    Source: bLink token management (24 hours recommended, 30 days extended with every refresh).
    """

    rotates: bool = field(default=True, validator=_boolean)
    after_uncertainty: AfterUncertainty = field(
        default=AfterUncertainty.REPLAY_ONCE, converter=_after_uncertainty
    )
    last_attempt: bool = field(default=True, validator=_boolean)
    advisory: float = field(default=4 * HOUR, validator=_seconds)
    mandatory: float = field(default=60.0, validator=_seconds)
    default_lifetime: float = field(default=HOUR, validator=_seconds)
    idle_lifetime: float = field(default=30 * DAY, validator=_seconds)
    rate: float | None = field(default=None, validator=_rate)
