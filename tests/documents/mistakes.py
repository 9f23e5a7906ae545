"""Mistakes with the library, one a row, and the tables of docs/how-to/mistakes.md made of them."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

from attrs import evolve, field, frozen

from blink_oauth import (
    AsyncBlinkOAuth,
    AuthorizationRequest,
    BlinkOAuth,
    CertificateError,
    ClientCertificate,
    FailedCallback,
    Grant,
    InvalidGrantError,
    InvalidInputError,
    ProblemError,
    Psu,
    Secret,
    Settings,
    TlsError,
    Token,
    answer_to,
    check_certificate,
)
from blink_oauth_keeper import (
    ConsentNeededError,
    Event,
    GrantExistsError,
    KeyFile,
    MemoryTokenStore,
    SealError,
    SqlTokenStore,
    StoreError,
    TargetProfile,
    TokenManager,
    UnknownGrantError,
    WrappedKeyFile,
)
from blink_oauth_testing import Sandbox
from cli.test_mistakes import MISTAKES as COMMANDS

__all__ = ["MISTAKES", "Mistake", "World", "command_table", "library_table"]

T = TypeVar("T", BlinkOAuth, TokenManager)
KEY = SqlTokenStore.new_key()
APP_KEY = "fake-key-of-the-application"


@frozen
class World:
    """What a mistake is made with.

    Args:
        sandbox: The platform.
        folder: An empty folder.
        manager: A manager of a store in memory.
        blink: Its client.
    """

    sandbox: Sandbox
    folder: Path
    manager: TokenManager
    blink: BlinkOAuth
    _opened: list[BlinkOAuth | TokenManager] = field(factory=list)

    @property
    def psu(self) -> Psu:
        """The customer's device."""
        return Psu("203.0.113.7", "Mozilla/5.0")

    @property
    def grant(self) -> Grant:
        """A grant at the first bank."""
        return self.sandbox.grant()

    @property
    def uri(self) -> str:
        """The registered redirect URI."""
        return self.sandbox.redirect_uri

    @property
    def certificate(self) -> ClientCertificate:
        """The client certificate that is registered."""
        return self.sandbox.client_certificate()

    @property
    def request(self) -> AuthorizationRequest:
        """A new authorization request."""
        client_id = self.sandbox.settings().client_id
        return AuthorizationRequest.new(client_id, self.grant, self.uri, key=APP_KEY)

    def client(self, **changes: Any) -> BlinkOAuth:
        """Return a client with other settings."""
        return self.later_closed(BlinkOAuth(self.sandbox.settings(**changes)))

    def certified(self, **changes: Any) -> BlinkOAuth:
        """Return a client with other files."""
        files = {name: getattr(self.certificate, name) for name in ("chain", "key", "ca")}
        passphrase = {"passphrase": self.certificate.passphrase}
        return self.client(certificate=ClientCertificate(**(files | passphrase | changes)))

    def other_manager(self, store: Any = None, **options: Any) -> TokenManager:
        """Return another manager with the same client."""
        manager = TokenManager(self.blink, store or MemoryTokenStore(), **options)
        return self.later_closed(manager)

    def sql_manager(self, path: str) -> TokenManager:
        """Return another manager, of a store in a file."""
        return self.other_manager(SqlTokenStore(self.folder / path, keys=[KEY]))

    def authorize(self, manager: TokenManager | None = None, **changes: Any) -> Any:
        """Exchange a new code."""
        grant = changes.pop("grant", self.grant)
        code = changes.pop("code", None) or self.sandbox.issue_code(self.grant)
        values: dict[str, Any] = {"code": code, "redirect_uri": self.uri, "psu": self.psu}
        return (manager or self.manager).authorize(grant, **(values | changes))

    def later_closed(self, opened: T) -> T:
        """Note what has to be closed."""
        self._opened.append(opened)
        return opened

    def close(self) -> None:
        """Close what the mistake opened, the managers first."""
        for opened in reversed(self._opened):
            opened.close()


@frozen
class Mistake:
    """A mistake, and what comes of it.

    Attributes:
        did: What one did, in Markdown.
        act: Does it.
        kind: The class of the exception, or of the result.
        says: A part of its text.
        do: What to do.
        status: The status of `answer_to`; None if the exception is none of this library.
        exit_code: Its exit code.
        sent: The number of requests that the platform got.
    """

    did: str
    act: Callable[[World], object]
    kind: type
    says: str
    do: str
    status: int | None = 500
    exit_code: int | None = 2
    sent: int = 0


def no_answer(*row: Any) -> Mistake:
    """Return a mistake with an exception of Python or httpx, or with a result."""
    return evolve(Mistake(*row), status=None, exit_code=None)


def reversed_chain(world: World) -> object:
    blocks = world.certificate.chain.read_text("ascii").split("-----END CERTIFICATE-----\n")[:-1]
    chain = world.folder / "chain.pem"
    chain.write_text("".join(f"{each}-----END CERTIFICATE-----\n" for each in reversed(blocks)))
    return world.certified(chain=chain)


def other_key(world: World) -> object:
    other = world.sandbox.authority.issue_client("CIDX0000000009")
    files = world.sandbox.client_certificate(credentials=other)
    return world.certified(key=files.key, passphrase=files.passphrase)


def code_twice(world: World) -> object:
    code = world.sandbox.issue_code(world.grant)
    world.authorize(code=code)
    return world.authorize(code=code)


def with_keys_as_they_are(w: World) -> WrappedKeyFile:
    """Return a provider of a file with a key that is not wrapped."""
    file = w.folder / "tokens.keys"
    file.write_text(KEY.reveal(), "ascii")
    return WrappedKeyFile(file, ["vault"])


def new_key_at_each_start(world: World) -> object:
    path = world.folder / "tokens.db"
    first = TokenManager(world.blink, SqlTokenStore(path, keys=[SqlTokenStore.new_key()]))
    world.authorize(first)
    first.close()
    second = SqlTokenStore(path, keys=[SqlTokenStore.new_key()])
    return world.other_manager(second).get(world.grant)


def closed(world: World) -> TokenManager:
    manager = world.other_manager()
    manager.close()
    return manager


def client_closed_first(world: World) -> object:
    blink = world.client()
    manager = world.later_closed(TokenManager(blink, MemoryTokenStore()))
    world.authorize(manager)
    blink.close()
    return manager.refresh(world.grant)


def two_loops(world: World) -> object:
    blink = AsyncBlinkOAuth(world.sandbox.settings())

    async def in_first_loop() -> None:
        await blink.probe()

    async def in_second_loop() -> None:
        await blink.refresh(world.grant, "fake-refresh-token")

    with asyncio.Runner() as first:
        first.run(in_first_loop())
        try:
            with asyncio.Runner() as second:
                return second.run(in_second_loop())
        finally:
            first.run(blink.close())


def forgotten_await(world: World) -> object:
    coroutine: Any = world.manager.aget(world.grant)
    try:
        return coroutine.access_token
    finally:
        coroutine.close()


def adopted_over(world: World) -> object:
    world.authorize()
    return world.manager.adopt(world.grant, refresh_token="fake-refresh-token")


def adopted_after(world: World, end: Callable[[Grant], None]) -> object:
    world.authorize()
    end(world.grant)
    return world.manager.adopt(world.grant, refresh_token="fake-refresh-token")


def gotten_after(world: World, end: Callable[[Grant], None]) -> object:
    world.authorize()
    end(world.grant)
    return world.manager.get(world.grant)


async def async_listener(event: Event) -> None:
    raise AssertionError(event)


def any_(value: object) -> Any:
    return cast("Any", value)


def env(world: World, **renamed: str) -> Mapping[str, str]:
    return {renamed.get(name, name): value for name, value in world.sandbox.environment().items()}


def base(world: World) -> str:
    return world.sandbox.settings().base_url


MISTAKES = [
    Mistake(
        "`Settings.from_env()` with `BLINK_CLIENTID`",
        lambda w: Settings.from_env(env(w, BLINK_CLIENT_ID="BLINK_CLIENTID")),
        InvalidInputError,
        "BLINK_CLIENTID is set, but not read: was it meant?",
        "rename the variable",
    ),
    Mistake(
        "`BLINK_KEY` holds the key itself",
        lambda w: Settings.from_env(
            {**w.sandbox.environment(), "BLINK_KEY": w.certificate.chain.read_text("ascii")}
        ),
        InvalidInputError,
        "The variable BLINK_KEY must be the path of a PEM file",
        "write it into a file, and name that",
    ),
    Mistake(
        '`Settings(base_url="http://…")`',
        lambda w: w.client(base_url=base(w).replace("https://", "http://")),
        InvalidInputError,
        "must start with https://",
        "use `https://`",
    ),
    Mistake(
        '`Settings(base_url="…/oauth/token")`',
        lambda w: w.client(base_url=f"{base(w)}/oauth/token"),
        InvalidInputError,
        "must be the URL of the module, https://…/consent-flow/v2",
        "leave out `/oauth/token`",
    ),
    Mistake(
        '`Settings(base_url="https://host")`, without a path',
        lambda w: w.client(base_url=base(w).removesuffix("/consent-flow/v2")).refresh(
            w.grant, "fake-refresh-token"
        ),
        ProblemError,
        "failed: 404 from the platform",
        "append `/consent-flow/v2`",
        502,
        1,
        sent=1,
    ),
    Mistake(
        "`Settings(timeouts=10)`",
        lambda w: w.client(timeouts=10),
        InvalidInputError,
        "Settings.timeouts must be Timeouts, such as Timeouts(total=20.0), but it is an int.",
        "pass `Timeouts(total=10.0)`",
    ),
    Mistake(
        "`BlinkOAuth` without a certificate",
        lambda w: w.client(certificate=None),
        InvalidInputError,
        "Settings.certificate is not set (BLINK_CERTIFICATE), but bLink demands mutual TLS.",
        "set it",
    ),
    Mistake(
        "`ClientCertificate(pem_text)`",
        lambda w: ClientCertificate(w.certificate.chain.read_text("ascii")),
        InvalidInputError,
        "ClientCertificate takes the paths of PEM files",
        "pass the path",
    ),
    Mistake(
        "the key of another certificate",
        other_key,
        CertificateError,
        "does not belong to the certificate: give the key it was made with.",
        "give the key it was made with",
    ),
    Mistake(
        "an encrypted key without its passphrase",
        lambda w: w.certified(passphrase=None),
        CertificateError,
        "is encrypted: give its passphrase.",
        "pass `passphrase=`, or set `BLINK_KEY_PASSPHRASE_FILE`",
    ),
    Mistake(
        "a file that does not exist",
        lambda w: w.certified(key="client.key"),
        CertificateError,
        "client.key cannot be read: No such file or directory.",
        "correct the path; a relative one begins in the working directory",
    ),
    Mistake(
        "a chain with the intermediate certificate first",
        reversed_chain,
        CertificateError,
        "Put the client certificate first, then each issuer.",
        "sort the file",
    ),
    Mistake(
        "an expired certificate",
        lambda w: BlinkOAuth(
            w.sandbox.settings(), clock=lambda: datetime.now(UTC) + timedelta(days=800)
        ),
        CertificateError,
        "The certificate expired on",
        "order and register its successor",
    ),
    Mistake(
        "a server whose authority is not in `ca`",
        lambda w: w.certified(ca=None).probe(),
        TlsError,
        "the server's certificate is from an authority that is not trusted here.",
        "check `base_url`, then `ca` (`BLINK_CA`)",
        500,
        1,
    ),
    Mistake(
        "`check_certificate(…, now=datetime.now())`",
        lambda w: check_certificate(w.certificate, now=datetime.now()),  # noqa: DTZ005
        InvalidInputError,
        "The argument now must have a time zone, such as datetime.now(UTC).",
        "pass `datetime.now(UTC)`",
    ),
    Mistake(
        "`BlinkOAuth(…, clock=datetime.now)`",
        lambda w: BlinkOAuth(w.sandbox.settings(), clock=datetime.now),
        InvalidInputError,
        "The argument clock must return a time with its timezone, such as datetime.now(UTC).",
        "leave it out",
    ),
    Mistake(
        "`AsyncBlinkOAuth` in two event loops",
        two_loops,
        InvalidInputError,
        "The client belongs to the event loop of its first call, and this is another one",
        "make one for each loop; one `TokenManager` serves all loops",
        sent=1,
    ),
    Mistake(
        '`Grant("First Bank", …)`, the target\'s name',
        lambda w: Grant("First Bank", "u-4711"),
        InvalidInputError,
        'Grant.target_id must be visible ASCII, without blanks, such as "IIDX99999".',
        "pass the id in bLink's directory",
    ),
    Mistake(
        "`Grant(username, target_id)`, swapped",
        lambda w: w.authorize(grant=Grant("u-4711", w.grant.target_id)),
        ProblemError,
        "Exchanging the authorization code at u-4711 failed: 403 from the platform",
        "swap them: the code is not spent",
        502,
        1,
        sent=1,
    ),
    Mistake(
        '`Psu(ip=request.headers["X-Forwarded-For"], …)` with two addresses',
        lambda w: Psu("203.0.113.7, 192.0.2.1", "Mozilla/5.0"),
        InvalidInputError,
        "Psu.ip must be one IPv4 or IPv6 address",
        "pass the customer's alone, as your proxy defines it",
    ),
    Mistake(
        '`psu="AUTO"`',
        lambda w: w.authorize(psu="AUTO"),
        InvalidInputError,
        "The argument psu must be a Psu, such as Psu(ip=ip, user_agent=agent) or Psu.AUTO, "
        "but it is a str.",
        "pass `Psu.AUTO`, or the customer's device",
    ),
    Mistake(
        '`redirect_uri="/callback"`',
        lambda w: AuthorizationRequest.new("CIDX0000000002", w.grant, "/callback", key=APP_KEY),
        InvalidInputError,
        "The argument redirect_uri must be an absolute URI without a fragment",
        "pass the registered URI",
    ),
    no_answer(
        "`read_callback(str(request.url))`, the whole URL",
        lambda w: w.request.read_callback(f"{w.uri}?code=fake-code&state=fake-state"),
        FailedCallback,
        "whole_url",
        "pass the query: the code is not spent",
    ),
    no_answer(
        "`read_callback` in the session of another login",
        lambda w: w.request.read_callback(f"code=fake-code&state={w.request.state.reveal()}"),
        FailedCallback,
        "other_login",
        "use the state of this browser's session; do not use the code",
    ),
    Mistake(
        "`restore` with another key, grant or redirect URI than `new`",
        lambda w: AuthorizationRequest.restore(
            "CIDX0000000002", w.grant, w.uri, state=w.request.state, key="fake-other-key"
        ),
        InvalidInputError,
        "The state was not made for this client, grant and redirect URI with this key.",
        "use one key in all processes, and start the login again",
    ),
    Mistake(
        '`session["state"] = str(request.state)`',
        lambda w: AuthorizationRequest.restore(
            "CIDX0000000002", w.grant, w.uri, state=str(w.request.state), key=APP_KEY
        ),
        InvalidInputError,
        "The state must be the text of the Secret, and not what str() shows",
        "keep `request.state.reveal()`",
    ),
    Mistake(
        "`code` with `&state=…` behind it",
        lambda w: w.authorize(code=f"{w.sandbox.issue_code(w.grant)}&state=fake-state"),
        InvalidInputError,
        "The authorization code is a part of the callback's URL",
        "pass `result.code` of `read_callback`: the code is not spent",
    ),
    Mistake(
        "a code that was exchanged before",
        code_twice,
        InvalidGrantError,
        "Only the customer can help: start a new authorization at the bank.",
        "ask the customer again: some banks revoke the tokens of the first exchange",
        403,
        3,
        sent=2,
    ),
    Mistake(
        "an exchange with another redirect URI than the request's",
        lambda w: w.authorize(redirect_uri=f"{w.uri}/"),
        InvalidGrantError,
        "Only the customer can help: start a new authorization at the bank.",
        "use one constant for both, and ask the customer again",
        403,
        3,
        sent=1,
    ),
    Mistake(
        "a refresh token that was stored with `str()`",
        lambda w: w.blink.refresh(w.grant, str(Secret("fake-refresh-token"))),
        InvalidInputError,
        "The refresh token must be the text of the Secret, and not what str() shows",
        "store `reveal()`, or let the keeper store it",
    ),
    Mistake(
        "`blink.refresh(grant, token)`",
        lambda w: w.blink.refresh(w.grant, any_(Token(access_token=Secret("fake-token")))),
        InvalidInputError,
        "The refresh token must be a str or Secret, but it is a Token.",
        "pass `token.refresh_token`",
    ),
    Mistake(
        "`TokenManager(AsyncBlinkOAuth(…), store)`",
        lambda w: TokenManager(any_(AsyncBlinkOAuth(w.sandbox.settings())), MemoryTokenStore()),
        InvalidInputError,
        "The argument blink must be a BlinkOAuth, but it is an AsyncBlinkOAuth.",
        "pass a `BlinkOAuth`, and use `await manager.aget(…)`",
    ),
    Mistake(
        "`TokenManager(blink, MemoryTokenStore)`, the class",
        lambda w: w.other_manager(MemoryTokenStore),
        InvalidInputError,
        "The argument store must be a TokenStore",
        "pass `MemoryTokenStore()`",
    ),
    Mistake(
        "`lease=10.0` with a total timeout of 20 s",
        lambda w: w.other_manager(lease=10.0),
        InvalidInputError,
        "The lease must be longer than the client's total timeout (20 s)",
        "shorten `Timeouts(total=…)` as well",
    ),
    Mistake(
        "`profiles={grant: …}`",
        lambda w: w.other_manager(profiles={w.grant: TargetProfile(rotates=False)}),
        InvalidInputError,
        'The argument profiles must be a str, such as {"IIDX99999": '
        "TargetProfile(rotates=False)}, by target id",
        "use `grant.target_id` as the key",
    ),
    Mistake(
        "`on_event=` with an `async def`",
        lambda w: w.other_manager(on_event=async_listener),
        InvalidInputError,
        "The argument on_event must be a function without async, such as print",
        "pass a function that hands the event to the loop",
    ),
    Mistake(
        "`manager.refresh_due(within=10)`",
        lambda w: w.manager.refresh_due(within=any_(10)),
        InvalidInputError,
        "The argument within must be a timedelta, such as timedelta(days=10), but it is an int.",
        "pass `timedelta(days=10)`",
    ),
    Mistake(
        '`manager.get("u-4711")`',
        lambda w: w.manager.get(any_("u-4711")),
        InvalidInputError,
        'The argument grant must be a Grant, such as Grant("IIDX99999", "u-4711")',
        "pass a `Grant`",
    ),
    Mistake(
        "`manager.get` before the customer has consented",
        lambda w: w.manager.get(Grant(w.grant.target_id, "u-4712")),
        UnknownGrantError,
        "No token is stored for this grant. Authorize it first.",
        "start an authorization; compare the username, which is case-sensitive",
        403,
        3,
    ),
    Mistake(
        "`manager.adopt` of a grant that the store has",
        adopted_over,
        GrantExistsError,
        "The refresh token was neither stored nor presented. Use the stored pair with get",
        "use `manager.get`; for a newer consent authorize the grant",
        sent=1,
    ),
    Mistake(
        "`manager.adopt` of a grant that was revoked",
        lambda w: adopted_after(w, w.manager.revoke),
        ConsentNeededError,
        "The grant was revoked. Authorize it anew.",
        "start an authorization",
        403,
        3,
        sent=3,
    ),
    Mistake(
        "`manager.adopt` with a part of the old record",
        lambda w: w.manager.adopt(w.grant, refresh_token=any_({"refresh_token": "fake-token"})),
        InvalidInputError,
        "The refresh token must be a str or Secret, but it is a dict.",
        "pass the text of the refresh token",
    ),
    Mistake(
        "`manager.forget` of a grant that the store does not have",
        lambda w: w.manager.forget(Grant(w.grant.target_id, "u-4712")),
        UnknownGrantError,
        "No token is stored for this grant.",
        "nothing, or compare the username: what the store had is deleted",
        403,
        3,
    ),
    Mistake(
        "`manager.get` after `manager.forget`",
        lambda w: gotten_after(w, w.manager.forget),
        ConsentNeededError,
        "Authorize it anew.",
        "start an authorization",
        403,
        3,
        sent=3,
    ),
    Mistake(
        "`manager.refresh` after `manager.close()`",
        lambda w: closed(w).refresh(w.grant),
        InvalidInputError,
        "The manager is closed.",
        "close it at the end of the process only",
    ),
    Mistake(
        "`blink.close()` before `manager.close()`",
        client_closed_first,
        InvalidInputError,
        "The client is closed: make a new one.",
        "close the manager first",
        sent=1,
    ),
    Mistake(
        '`SqlTokenStore("tokens.db", …)`',
        lambda w: SqlTokenStore("tokens.db", keys=[KEY]),
        InvalidInputError,
        "The database must be a URL such as sqlite:///tokens.db",
        'pass that, or `Path("tokens.db")`',
    ),
    Mistake(
        "`sqlite:///…` in a folder that does not exist",
        lambda w: w.other_manager(SqlTokenStore(w.folder / "no/tokens.db", keys=[KEY])).get(
            w.grant
        ),
        StoreError,
        "does not exist: make it. Nothing was changed.",
        "make the folder",
        503,
        1,
    ),
    Mistake(
        "`postgresql+psycopg2://…`",
        lambda w: SqlTokenStore("postgresql+psycopg2://app:fake-pw@db.example/x", keys=[KEY]),
        InvalidInputError,
        "The database must be SQLite with the driver pysqlite, or PostgreSQL with psycopg.",
        "use `postgresql+psycopg://`",
    ),
    Mistake(
        "`keys=key`, one key in place of a list",
        lambda w: SqlTokenStore(w.folder / "tokens.db", keys=any_(KEY)),
        InvalidInputError,
        "The argument keys must be a list of keys or a KeyProvider",
        "pass `[key]`, or a `KeyFile`",
    ),
    Mistake(
        "`KeyFile(key)`, the key in place of the path",
        lambda w: KeyFile(KEY.reveal()),
        InvalidInputError,
        "KeyFile takes the path of a file, but it was given a key",
        "pass the path, or `keys=[key]`",
    ),
    Mistake(
        "a key file that does not exist",
        lambda w: SqlTokenStore(w.folder / "tokens.db", keys=KeyFile("tokens.keys")),
        InvalidInputError,
        "No key can be read from tokens.keys: No such file or directory.",
        "make one once: `blink-oauth keys generate --output tokens.keys`",
    ),
    Mistake(
        "`WrappedKeyFile` of a file whose keys are not wrapped",
        lambda w: SqlTokenStore(w.folder / "tokens.db", keys=with_keys_as_they_are(w)),
        InvalidInputError,
        "it is not wrapped. Wrap it first; KeyFile reads keys as they are.",
        "wrap them: `blink-oauth keys wrap`",
    ),
    Mistake(
        "`unwrap=` with a command as one text",
        lambda w: WrappedKeyFile("wrapped.keys", "vault write …"),
        InvalidInputError,
        "The argument unwrap must be a list of arguments, since no shell is used",
        "pass a list; `shlex.split` makes one",
    ),
    Mistake(
        "`keys=[SqlTokenStore.new_key()]` at each start",
        new_key_at_each_start,
        SealError,
        "The stored token is unchanged. Add that key to keys.",
        "give the first key back; without it, only a new consent helps",
        500,
        1,
        sent=1,
    ),
    Mistake(
        "`auth=manager.auth(…)` with an `http://` URL",
        lambda w: w.manager.client().get(
            "http://bank.example/accounts", auth=w.manager.auth(w.grant, psu=w.psu)
        ),
        InvalidInputError,
        "A token is sent only to https://, or to http:// on this machine",
        "use the `https://` URL",
    ),
    Mistake(
        "`answer_to(error)` of another exception",
        lambda w: answer_to(any_(ValueError("fake"))),
        InvalidInputError,
        "The argument error must be a BlinkError",
        "catch `BlinkError`",
    ),
    no_answer(
        "`manager.aget(grant).access_token` without `await`",
        forgotten_await,
        AttributeError,
        "'coroutine' object has no attribute 'access_token'",
        "`await` it",
    ),
    no_answer(
        "`json.dumps` of a token's text",
        lambda w: json.dumps({"token": Secret("fake-token")}),
        TypeError,
        "Object of type Secret is not JSON serializable",
        "do not: a token belongs in the store and into one header",
    ),
    no_answer(
        "`pickle.dumps`, also by a cache or a task queue",
        lambda w: pickle.dumps(Secret("fake-token")),
        TypeError,
        "A Secret is never pickled.",
        "pass the `Grant`; the task calls `manager.get(grant)`",
    ),
]


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    heads = [*heads]
    for cells in (heads, ["---"] * len(heads), *rows):
        yield f"| {' | '.join(each.replace('|', chr(92) + '|') for each in cells)} |"


def library_table() -> list[str]:
    """Return the table of the library."""
    heads = ("Mistake", "Error", "It says", "Status", "Exit code", "Do this")
    return [
        *table(
            heads,
            (
                (
                    each.did,
                    f"`{each.kind.__name__}`",
                    each.says,
                    str(each.status or ""),
                    str(each.exit_code or ""),
                    each.do,
                )
                for each in MISTAKES
            ),
        )
    ]


def command_table() -> list[str]:
    """Return the table of the command, from the rows of its test."""
    heads = ("Command line", "Variable left out or changed", "Exit code", "It says", "It advises")
    return [
        *table(
            heads,
            (
                (
                    f"`blink-oauth {each.words}`",
                    ", ".join(
                        f"`BLINK_{name.upper()}={value or ''}`"
                        for name, value in each.changes.items()
                    ),
                    str(int(each.code)),
                    each.what,
                    each.do,
                )
                for each in COMMANDS
            ),
        )
    ]
