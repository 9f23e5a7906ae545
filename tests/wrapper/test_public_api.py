"""The public API: complete, documented, and without types of the libraries that it uses."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from types import ModuleType
from typing import Any

import attrs
import pytest

import blink_oauth
import blink_oauth_keeper
import blink_oauth_testing
from blink_oauth import (
    AsyncBlinkOAuth,
    BlinkError,
    BlinkOAuth,
    CertificateError,
    Grant,
    InvalidInputError,
    NoResponseError,
    OAuthError,
    Outcome,
    ProblemError,
    Psu,
    ResponseError,
    ResponseMeta,
    RevocationError,
    Secret,
    Settings,
    Source,
    TimedOutError,
    Timeouts,
    TlsError,
    TlsFault,
    Token,
    TokenKind,
)
from blink_oauth_testing import sandbox, store_contract

PACKAGES = (blink_oauth, blink_oauth_keeper)
PUBLIC: dict[str, Any] = {
    name: getattr(package, name) for package in PACKAGES for name in package.__all__
}
CLASSES: dict[str, type] = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}
ERRORS = {name: cls for name, cls in CLASSES.items() if issubclass(cls, BlinkError)}
DOCUMENTED = {
    "AsyncBlinkOAuth", "AuthorizationRequest", "BlinkError", "BlinkOAuth", "ClientCertificate",
    "Grant", "Outcome", "Psu", "ResponseMeta", "Secret", "Settings", "Source", "Token",
}  # fmt: skip
DOCUMENTED_KEEPER = {
    "AfterUncertainty", "Event", "EventName", "GrantKey", "GrantStatus", "MemoryTokenStore", "Note",
    "Record", "Report", "State", "TargetProfile", "TokenManager", "TokenStore",
}  # fmt: skip
META = ResponseMeta(
    status=502,
    correlation_id="corr-1",
    echoed=True,
    source=Source.PLATFORM,
    language="en",
    caching_forbidden=False,
    retry_after=7.0,
)


def members(cls: type) -> Iterator[tuple[str, Callable[..., object]]]:
    """Yield the name and function of the public methods and properties that a class defines."""
    for name, member in vars(cls).items():
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        if inspect.isfunction(function) and not name.startswith("_"):
            yield f"{cls.__name__}.{name}", function


# `TokenStore` documents the methods of a store, and `TokenStoreContract` tests them.
STORES = {"MemoryTokenStore", "TokenStore"}
METHODS = dict(pair for name, cls in CLASSES.items() if name not in STORES for pair in members(cls))


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_sorted_complete_and_without_duplicates(package: ModuleType) -> None:
    names = package.__all__
    assert names == sorted(set(names))
    visible = {
        name
        for name, value in vars(package).items()
        if not (name.startswith("_") or inspect.ismodule(value) or name == "TYPE_CHECKING")
    }
    assert visible <= set(names)
    assert set(names) <= set(dir(package))


def test_all_contains_the_documented_names() -> None:
    assert set(blink_oauth.__all__) >= DOCUMENTED
    assert set(blink_oauth_keeper.__all__) >= DOCUMENTED_KEEPER


def test_the_names_that_load_a_library_are_listed_and_are_those_of_their_modules() -> None:
    from blink_oauth_keeper import (
        GrantAuth,
        SqlTokenStore,
        metadata,
        otel_listener,
        prometheus_listener,
    )

    names = {"GrantAuth", "SqlTokenStore", "metadata", "otel_listener", "prometheus_listener"}
    assert names <= set(dir(blink_oauth_keeper))
    assert names.isdisjoint(blink_oauth_keeper.__all__)
    assert (GrantAuth.__name__, SqlTokenStore.__name__) == ("GrantAuth", "SqlTokenStore")
    assert "blink_oauth_grants" in metadata.tables
    assert inspect.isfunction(otel_listener)
    assert inspect.isfunction(prometheus_listener)


def test_the_names_for_tests_are_importable_from_the_top() -> None:
    for module in (sandbox, store_contract):
        for name in module.__all__:
            assert getattr(blink_oauth_testing, name) is getattr(module, name)
            assert name in dir(blink_oauth_testing)
    with pytest.raises(AttributeError):
        _ = blink_oauth_testing.misspelt  # type: ignore[attr-defined]


def words(annotations: Iterable[str]) -> set[str]:
    """Return the names in the texts of annotations, without their modules."""
    return {word for text in annotations for word in re.findall(r"\b[A-Z]\w+", text)}


def defined(package: ModuleType) -> set[str]:
    """Return the names of the classes and types that the modules of a package define."""
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    modules = [importlib.import_module(module.name) for module in found]
    return {name for module in modules for name in getattr(module, "__all__", ())}


FOR_TESTS_ONLY = {"NoticeName", "StoredGrant", "StoredNotice"}


def test_every_type_in_a_public_signature_is_imported_from_the_top_of_a_package() -> None:
    public = [annotation for place, annotation in signatures() if not re.search(r"\._[a-z]", place)]
    used = words(public)
    assert {"Grant", "Listener", "GrantAuth", "Progress", "RevocationField"} <= used
    ours = used & set().union(*map(defined, PACKAGES)) - FOR_TESTS_ONLY
    assert [name for name in ours if not any(hasattr(each, name) for each in PACKAGES)] == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'BlinkOauth'"):
        blink_oauth.BlinkOauth  # type: ignore[attr-defined]  # noqa: B018


def test_every_error_is_public() -> None:
    def subtree(cls: type[BlinkError]) -> Iterator[type[BlinkError]]:
        yield cls
        for child in cls.__subclasses__():
            yield from subtree(child)

    assert {cls.__name__ for cls in subtree(BlinkError)} == ERRORS.keys()


def test_the_docstrings_show_the_tree_of_the_errors() -> None:
    modules = ("blink_oauth.errors", "blink_oauth_keeper.errors")
    text = "\n".join(importlib.import_module(module).__doc__ or "" for module in modules)
    lines = re.findall(r"^( *)[*x+-] (\w+)", text, re.MULTILINE)
    nodes = [(len(indentation) // 2, name) for indentation, name in lines]
    path: list[str] = []
    for depth, name in nodes:
        path[depth:] = [name]
        assert ERRORS[name].__base__ is (ERRORS[path[-2]] if depth else Exception)
    assert {name for _, name in nodes} == ERRORS.keys()
    assert issubclass(InvalidInputError, ValueError)


@pytest.mark.parametrize("name", CLASSES)
def test_a_public_class_has_a_docstring(name: str) -> None:
    first, *_ = (CLASSES[name].__doc__ or "").splitlines() or [""]
    assert first.endswith((".", ":")), first
    assert first[:1].isupper()
    assert not first.startswith(f"{name}(")


@pytest.mark.parametrize("name", METHODS)
def test_a_public_method_has_a_docstring(name: str) -> None:
    first, *_ = (METHODS[name].__doc__ or "").splitlines() or [""]
    assert re.fullmatch(r"[A-Z].*[.:]", first)


@pytest.mark.parametrize("name", METHODS)
def test_the_docstring_of_a_method_documents_each_argument(name: str) -> None:
    # Python 3.13 removes the indentation of docstrings, older versions do not.
    documented = inspect.cleandoc(METHODS[name].__doc__ or "")
    for parameter in inspect.signature(METHODS[name]).parameters:
        assert parameter in {"self", "cls"} or f"\n    {parameter}: " in documented


@pytest.mark.parametrize(
    "cls", [BlinkOAuth, AsyncBlinkOAuth, Secret, Settings, Timeouts, Grant, Psu]
)
def test_the_docstring_of_a_class_lists_the_errors_of_its_constructor(cls: type) -> None:
    assert "Raises:\n" in inspect.cleandoc(cls.__doc__ or "")


@pytest.mark.parametrize("cls", [BlinkOAuth, AsyncBlinkOAuth])
@pytest.mark.parametrize("name", ["exchange_code", "refresh", "revoke"])
def test_the_docstring_of_a_call_has_its_errors_and_its_source(cls: type, name: str) -> None:
    text = inspect.getdoc(getattr(cls, name)) or ""
    assert "Raises:\n    InvalidInputError: " in text
    assert "Source: RFC " in text


def signatures() -> Iterator[tuple[str, str]]:
    """Yield the place and the text of every annotation of the public API."""
    for cls in CLASSES.values():
        functions = dict(members(cls)) | {f"{cls.__name__}.__init__": vars(cls).get("__init__")}
        for place, function in functions.items():
            for name, annotation in getattr(function, "__annotations__", {}).items():
                yield f"{place}({name})", str(annotation)
        for name, annotation in vars(cls).get("__annotations__", {}).items():
            yield f"{cls.__name__}.{name}", str(annotation)


def test_no_type_of_httpx_or_of_the_generated_code_is_in_a_public_signature() -> None:
    places = [
        place
        for place, annotation in signatures()
        if re.search("httpx|httpcore|blink_oauth_api|Unset", annotation)
    ]
    assert places == [
        *("AsyncBlinkOAuth.__init__(transport)", "BlinkOAuth.__init__(transport)"),
        *("TokenManager.client(return)", "TokenManager.async_client(return)"),
    ]


def test_no_public_class_is_or_inherits_from_a_class_of_another_library() -> None:
    for cls in CLASSES.values():
        packages = {package.__name__ for package in PACKAGES}
        assert cls.__module__.partition(".")[0] in packages
        bases = {base.__module__.partition(".")[0] for base in cls.__mro__}
        assert bases <= packages | {"abc", "builtins", "enum", "typing"}


def test_the_version_has_three_numbers() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", blink_oauth.__version__)


FACTS: dict[type[BlinkError], dict[str, object]] = {
    CertificateError: {"rules": ("key_length",)},
    TlsError: {"fault": TlsFault.SERVER_NAME_MISMATCH},
    OAuthError: {"error": "X", "description": "d", "uri": "u"},
    ProblemError: {"type": "/problems/X", "title": "t", "detail": "d", "instance": "i"},
    RevocationError: {
        "revoked": frozenset({TokenKind.REFRESH_TOKEN}),
        "unknown": frozenset({TokenKind.ACCESS_TOKEN}),
    },
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_pickled_or_copied_error_has_the_same_attributes(name: str) -> None:
    facts: dict[str, object] = {
        "outcome": Outcome.UNCERTAIN,
        "retryable": True,
        "needs_consent": True,
        "status": 502,
        "meta": META,
        "correlation_id": "corr-1",
    }
    for cls, more in FACTS.items():
        facts |= more if issubclass(ERRORS[name], cls) else {}
    error = ERRORS[name]("It broke.", **facts)
    for duplicate in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(duplicate) is type(error)
        assert (str(duplicate), duplicate.args) == ("It broke.", ("It broke.",))
        assert {fact: getattr(duplicate, fact) for fact in facts} == facts
        assert duplicate.source is Source.PLATFORM


def test_a_pickled_revocation_error_contains_its_errors() -> None:
    nested = TimedOutError("Late.", correlation_id="corr-2")
    error = RevocationError("It broke.", errors={TokenKind.ACCESS_TOKEN: nested})
    loaded: RevocationError = pickle.loads(pickle.dumps(error))
    (inner,) = loaded.errors.values()
    assert (type(inner), str(inner), inner.correlation_id) == (TimedOutError, "Late.", "corr-2")


def test_a_pickled_error_does_not_contain_its_token() -> None:
    error = ResponseError("Odd.", token=Token(access_token="fake-access-token"))
    assert error.token is not None
    loaded: ResponseError = pickle.loads(pickle.dumps(error))
    assert loaded.token is None
    assert b"fake-access-token" not in pickle.dumps(error)


def test_an_error_refuses_an_unknown_attribute() -> None:
    with pytest.raises(TypeError, match="NoResponseError has no attribute 'colour'"):
        NoResponseError("Odd.", colour="red")


@pytest.mark.parametrize("value", [META, Psu.AUTO, Grant("IIDX1", "u"), Timeouts()])
def test_a_value_cannot_be_changed(value: attrs.AttrsInstance) -> None:
    for attribute in attrs.fields(type(value)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(value, attribute.name, None)


def test_these_public_classes_are_enumerations_of_texts() -> None:
    names = [name for name, cls in CLASSES.items() if issubclass(cls, StrEnum)]
    assert names == [
        *(
            "CertificateRole",
            "ExpiryStage",
            "FailureReason",
            "NetworkFault",
            "Oddity",
            "Outcome",
            "Rule",
            "Source",
            "TlsFault",
            "TokenKind",
        ),
        *("AfterUncertainty", "EventName", "NoticeKind", "NoticeReason", "Origin", "State"),
    ]
