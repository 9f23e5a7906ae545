from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

T = TypeVar("T", bound="ErrorBody")


@_attrs_define
class ErrorBody:
    """Error, of an authorization server (RFC 6749 5.2) or as problem details (RFC 9457)."""

    error: str | Unset = UNSET
    """ Error code. Known are invalid_request, invalid_client, invalid_grant, unauthorized_client,
    unsupported_grant_type, invalid_scope and, for revocation, unsupported_token_type.
     """
    error_description: str | Unset = UNSET
    """ Text for a developer, not for an end customer. """
    error_uri: str | Unset = UNSET
    """ Page that explains the error. """
    type_: str | Unset = UNSET
    """ Problem type, usually a relative reference such as /problems/TECHNICAL_ERROR. """
    title: str | Unset = UNSET
    """ Short summary of the problem type. """
    detail: str | Unset = UNSET
    """ What happened this time. """
    instance: str | Unset = UNSET
    """ Identifies this occurrence. """
    status: int | Unset = UNSET
    """ The HTTP status, repeated. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        error = self.error

        error_description = self.error_description

        error_uri = self.error_uri

        type_ = self.type_

        title = self.title

        detail = self.detail

        instance = self.instance

        status = self.status

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update({})
        if error is not UNSET:
            field_dict["error"] = error
        if error_description is not UNSET:
            field_dict["error_description"] = error_description
        if error_uri is not UNSET:
            field_dict["error_uri"] = error_uri
        if type_ is not UNSET:
            field_dict["type"] = type_
        if title is not UNSET:
            field_dict["title"] = title
        if detail is not UNSET:
            field_dict["detail"] = detail
        if instance is not UNSET:
            field_dict["instance"] = instance
        if status is not UNSET:
            field_dict["status"] = status

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        error = d.pop("error", UNSET)

        error_description = d.pop("error_description", UNSET)

        error_uri = d.pop("error_uri", UNSET)

        type_ = d.pop("type", UNSET)

        title = d.pop("title", UNSET)

        detail = d.pop("detail", UNSET)

        instance = d.pop("instance", UNSET)

        status = d.pop("status", UNSET)

        error_body = cls(
            error=error,
            error_description=error_description,
            error_uri=error_uri,
            type_=type_,
            title=title,
            detail=detail,
            instance=instance,
            status=status,
        )

        error_body.additional_properties = d
        return error_body

    @property
    def additional_keys(self) -> list[str]:
        return list(self.additional_properties.keys())

    def __getitem__(self, key: str) -> Any:
        return self.additional_properties[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.additional_properties[key] = value

    def __delitem__(self, key: str) -> None:
        del self.additional_properties[key]

    def __contains__(self, key: str) -> bool:
        return key in self.additional_properties
