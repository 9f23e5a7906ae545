"""Contains all the data models used in inputs/outputs"""

from .grant_type import GrantType
from .oauth_error_body import OauthErrorBody
from .problem_body import ProblemBody
from .revoke_request import RevokeRequest
from .source import Source
from .token_request import TokenRequest
from .token_response import TokenResponse
from .token_type_hint import TokenTypeHint

__all__ = (
    "GrantType",
    "OauthErrorBody",
    "ProblemBody",
    "RevokeRequest",
    "Source",
    "TokenRequest",
    "TokenResponse",
    "TokenTypeHint",
)
