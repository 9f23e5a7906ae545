from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define

from ..models.token_type_hint import TokenTypeHint, check_token_type_hint
from ..types import UNSET, Unset

T = TypeVar("T", bound="RevokeRequest")


@_attrs_define
class RevokeRequest:
    """Form of the revocation request. Provisional."""

    token: str
    """ The access token or refresh token to revoke. """
    client_id: str
    """ The platform's id of the client. """
    username: str
    """ The resource owner's username. """
    token_type_hint: TokenTypeHint | Unset = UNSET
    """ Which kind of token is presented (RFC 7009 2.1). """

    def to_dict(self) -> dict[str, Any]:
        token = self.token

        client_id = self.client_id

        username = self.username

        token_type_hint: str | Unset = UNSET
        if not isinstance(self.token_type_hint, Unset):
            token_type_hint = self.token_type_hint

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "token": token,
                "client_id": client_id,
                "username": username,
            }
        )
        if token_type_hint is not UNSET:
            field_dict["token_type_hint"] = token_type_hint

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        token = d.pop("token")

        client_id = d.pop("client_id")

        username = d.pop("username")

        _token_type_hint = d.pop("token_type_hint", UNSET)
        token_type_hint: TokenTypeHint | Unset
        if isinstance(_token_type_hint, Unset):
            token_type_hint = UNSET
        else:
            token_type_hint = check_token_type_hint(_token_type_hint)

        revoke_request = cls(
            token=token,
            client_id=client_id,
            username=username,
            token_type_hint=token_type_hint,
        )

        return revoke_request
