"""Contains all the data models used in inputs/outputs"""

from .error_body import ErrorBody
from .grant_type import GrantType
from .revoke_request import RevokeRequest
from .source import Source
from .token_request import TokenRequest
from .token_response import TokenResponse
from .token_type_hint import TokenTypeHint

__all__ = (
    "ErrorBody",
    "GrantType",
    "RevokeRequest",
    "Source",
    "TokenRequest",
    "TokenResponse",
    "TokenTypeHint",
)
