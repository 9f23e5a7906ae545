"""Paths, statuses, headers, members and limits of the contract, as types.

Generated from spec/openapi.yaml by tools/generation.py; do not edit. Code that repeats one of
these values refers to its type here, so that a type checker reports when the contract changes.
"""

from typing import Final, Literal, NotRequired, TypedDict

REQUEST_TOKEN_PATH: Final = "/oauth/token"
RequestTokenStatus = Literal[200, 400, 401, 403, 406, 415, 500, 502, 504]
RequestTokenRequestHeaders = TypedDict(
    "RequestTokenRequestHeaders",
    {
        "X-Correlation-ID": str,
        "User-Agent": str,
        "X-CorAPI-Target-ID": str,
        "X-PSU-IP-Address": str,
        "X-PSU-User-Agent": str,
    },
)
RequestTokenResponseHeaders = TypedDict(
    "RequestTokenResponseHeaders",
    {
        "X-Correlation-ID": str,
        "X-CorAPI-Source": Literal["PLATFORM", "PROVIDER"],
        "Cache-Control": NotRequired[str],
        "Pragma": NotRequired[str],
        "Content-Language": NotRequired[str],
    },
)

REVOKE_TOKEN_PATH: Final = "/oauth/revoke"
RevokeTokenStatus = Literal[200, 400, 401, 403, 406, 415, 500, 502, 504]
RevokeTokenRequestHeaders = TypedDict(
    "RevokeTokenRequestHeaders",
    {
        "X-Correlation-ID": str,
        "User-Agent": str,
        "X-CorAPI-Target-ID": str,
        "X-PSU-IP-Address": str,
        "X-PSU-User-Agent": str,
    },
)
RevokeTokenResponseHeaders = TypedDict(
    "RevokeTokenResponseHeaders",
    {
        "X-Correlation-ID": str,
        "X-CorAPI-Source": Literal["PLATFORM", "PROVIDER"],
        "Cache-Control": NotRequired[str],
        "Pragma": NotRequired[str],
        "Content-Language": NotRequired[str],
    },
)


class TokenRequestMembers(TypedDict):
    grant_type: Literal["authorization_code", "refresh_token"]
    client_id: str
    username: str
    code: NotRequired[str]
    redirect_uri: NotRequired[str]
    refresh_token: NotRequired[str]


class RevokeRequestMembers(TypedDict):
    token: str
    token_type_hint: NotRequired[Literal["access_token", "refresh_token"]]
    client_id: NotRequired[str]
    username: NotRequired[str]


class TokenResponseMembers(TypedDict):
    access_token: str
    token_type: str
    expires_in: NotRequired[int]
    refresh_token: NotRequired[str]
    scope: NotRequired[str]


class ErrorBodyMembers(TypedDict):
    error: NotRequired[str]
    error_description: NotRequired[str]
    error_uri: NotRequired[str]
    type: NotRequired[str]
    title: NotRequired[str]
    detail: NotRequired[str]
    instance: NotRequired[str]
    status: NotRequired[int]


CORRELATION_ID_MIN_LENGTH: Final = 1
CORRELATION_ID_MAX_LENGTH: Final = 64
TARGET_ID_MIN_LENGTH: Final = 1
HEADER_TEXT_MIN_LENGTH: Final = 1
PSU_IP_ADDRESS_MIN_LENGTH: Final = 1
TOKEN_REQUEST_CLIENT_ID_MIN_LENGTH: Final = 1
TOKEN_REQUEST_USERNAME_MIN_LENGTH: Final = 1
TOKEN_REQUEST_USERNAME_MAX_LENGTH: Final = 64
TOKEN_REQUEST_CODE_MIN_LENGTH: Final = 1
TOKEN_REQUEST_REDIRECT_URI_MIN_LENGTH: Final = 1
TOKEN_REQUEST_REFRESH_TOKEN_MIN_LENGTH: Final = 1
REVOKE_REQUEST_TOKEN_MIN_LENGTH: Final = 1
REVOKE_REQUEST_CLIENT_ID_MIN_LENGTH: Final = 1
REVOKE_REQUEST_USERNAME_MIN_LENGTH: Final = 1
REVOKE_REQUEST_USERNAME_MAX_LENGTH: Final = 64
TOKEN_RESPONSE_ACCESS_TOKEN_MIN_LENGTH: Final = 1
TOKEN_RESPONSE_TOKEN_TYPE_MIN_LENGTH: Final = 1
TOKEN_RESPONSE_REFRESH_TOKEN_MIN_LENGTH: Final = 1
ERROR_BODY_ERROR_MIN_LENGTH: Final = 1
ERROR_BODY_TYPE_MIN_LENGTH: Final = 1
