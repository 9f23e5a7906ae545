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
    token_type_hint: TokenTypeHint | Unset = UNSET
    """ Which kind of token is presented (RFC 7009 2.1). """
    client_id: str | Unset = UNSET
    """ The platform's id of the client. """
    username: str | Unset = UNSET
    """ The resource owner's username. """

    def to_dict(self) -> dict[str, Any]:
        token = self.token

        token_type_hint: str | Unset = UNSET
        if not isinstance(self.token_type_hint, Unset):
            token_type_hint = self.token_type_hint

        client_id = self.client_id

        username = self.username

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "token": token,
            }
        )
        if token_type_hint is not UNSET:
            field_dict["token_type_hint"] = token_type_hint
        if client_id is not UNSET:
            field_dict["client_id"] = client_id
        if username is not UNSET:
            field_dict["username"] = username

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        token = d.pop("token")

        _token_type_hint = d.pop("token_type_hint", UNSET)
        token_type_hint: TokenTypeHint | Unset
        if isinstance(_token_type_hint, Unset):
            token_type_hint = UNSET
        else:
            token_type_hint = check_token_type_hint(_token_type_hint)

        client_id = d.pop("client_id", UNSET)

        username = d.pop("username", UNSET)

        revoke_request = cls(
            token=token,
            token_type_hint=token_type_hint,
            client_id=client_id,
            username=username,
        )

        return revoke_request
