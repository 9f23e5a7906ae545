from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

T = TypeVar("T", bound="ProblemBody")


@_attrs_define
class ProblemBody:
    """Error of the platform (problem details, RFC 9457)."""

    type_: str
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
        type_ = self.type_

        title = self.title

        detail = self.detail

        instance = self.instance

        status = self.status

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "type": type_,
            }
        )
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
        type_ = d.pop("type")

        title = d.pop("title", UNSET)

        detail = d.pop("detail", UNSET)

        instance = d.pop("instance", UNSET)

        status = d.pop("status", UNSET)

        problem_body = cls(
            type_=type_,
            title=title,
            detail=detail,
            instance=instance,
            status=status,
        )

        problem_body.additional_properties = d
        return problem_body

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
