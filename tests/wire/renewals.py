"""Certificates of one client that replace each other in files, as tools write them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

from attrs import define, field

from blink_oauth import ClientCertificate, Rule
from blink_oauth.renewal import CertificateRenewal, ContextSource
from blink_oauth_testing.sandbox import Credentials, Sandbox
from blink_oauth_testing.sandbox.certificates import private_key
from wire.harness import wait_until

__all__ = [
    "CONNECTIONS",
    "LOOK",
    "ORDERS",
    "ManualClock",
    "Order",
    "ReplacedFiles",
    "Storm",
    "issue",
    "truncated",
]

LOOK = 1.0
"""Seconds between two looks at the files. A change is used at the second look."""
CONNECTIONS = 4


@define
class ManualClock:
    """A monotonic clock that a test sets."""

    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


def issue(sandbox: Sandbox, key: str) -> Credentials:
    """Issue one more certificate of the sandbox's client.

    Args:
        sandbox: The sandbox.
        key: The name of its key; equal names have equal keys. That of `first` is the key which the
            sandbox has made for its client.
    """
    name = "CIDX0000000002"
    credentials = sandbox.authority.issue_client(
        name, key=private_key(name if key == "first" else key)
    )
    sandbox.register(credentials)
    return credentials


@define
class ReplacedFiles:
    """The files of a certificate, in a folder.

    Args:
        folder: The folder.
        ca: The authorities to trust, in PEM form.
    """

    folder: Path
    ca: bytes
    versions: int = field(init=False, default=0)

    @property
    def certificate(self) -> ClientCertificate:
        """The certificate with these files."""
        return ClientCertificate(
            chain=self.folder / "client.pem",
            key=self.folder / "client.key",
            passphrase_file=self.folder / "client.passphrase",
            ca=self.folder / "ca.pem",
        )

    def contents(self, credentials: Credentials) -> dict[str, bytes]:
        """Return the content of each file for credentials, by its name."""
        self.versions += 1
        made = self.folder / f"made-{self.versions}"
        made.mkdir()
        credentials.save(made, "client")
        return {path.name: path.read_bytes() for path in made.iterdir()} | {"ca.pem": self.ca}

    @property
    def found(self) -> list[bytes | None]:
        """The content of each file that the certificate names; None for one that is missing."""
        return [path.read_bytes() if path.exists() else None for path in self.certificate.files]

    def write(self, contents: dict[str, bytes], *names: str) -> None:
        """Write these files, or all."""
        for name in names or contents:
            (self.folder / name).write_bytes(contents[name])

    def remove(self, names: Iterable[str]) -> None:
        """Remove files."""
        for name in names:
            (self.folder / name).unlink()

    def replace(self, credentials: Credentials) -> None:
        """Replace all files at once."""
        self.write(self.contents(credentials))


Steps = list[Callable[[], object]]
"""The steps of a replacement. Only after the last one the new pair is whole."""
Order = Callable[["ReplacedFiles", Credentials], Steps]


def key_first(files: ReplacedFiles, credentials: Credentials) -> Steps:
    new = files.contents(credentials)
    return [
        lambda: files.write(new, "client.key", "client.passphrase"),
        lambda: files.write(new, "client.pem"),
    ]


def certificate_first(files: ReplacedFiles, credentials: Credentials) -> Steps:
    new = files.contents(credentials)
    return [
        lambda: files.write(new, "client.pem"),
        lambda: files.write(new, "client.key", "client.passphrase"),
    ]


def passphrase_last(files: ReplacedFiles, credentials: Credentials) -> Steps:
    new = files.contents(credentials)
    return [
        lambda: files.write(new, "client.pem", "client.key"),
        lambda: files.write(new, "client.passphrase"),
    ]


def renamed(files: ReplacedFiles, credentials: Credentials) -> Steps:
    new = {f"{name}.new": data for name, data in files.contents(credentials).items()}
    files.write(new)

    def rename(*names: str) -> None:
        for name in names:
            (files.folder / f"{name}.new").replace(files.folder / name)

    return [
        lambda: rename("client.passphrase", "client.key"),
        lambda: rename("client.pem"),
    ]


def truncated(files: ReplacedFiles, credentials: Credentials) -> Steps:
    new = files.contents(credentials)
    chain = new["client.pem"]
    # After its first certificate, a chain is whole for OpenSSL, but not for the server.
    leaf = chain[: chain.index(b"-----END CERTIFICATE-----") + 26]
    return [
        lambda: files.write(dict.fromkeys(new, b"")),
        lambda: files.write(new | {"client.pem": chain[:700]}),
        lambda: files.write(new | {"client.pem": leaf}),
        lambda: files.write(new | {"client.key": new["client.key"][:900]}),
        lambda: files.write(new),
    ]


def removed(files: ReplacedFiles, credentials: Credentials) -> Steps:
    new = files.contents(credentials)
    return [
        lambda: files.remove(new),
        lambda: files.write(new),
    ]


def swapped(files: ReplacedFiles, credentials: Credentials) -> Steps:
    """Replace a folder by a symbolic link, as Kubernetes does for the files of a Secret."""
    new, data = files.contents(credentials), files.folder / "..data"
    version = files.folder / f"..version-{files.versions}"

    def fill() -> None:
        version.mkdir()
        for name, content in new.items():
            (version / name).write_bytes(content)
        (files.folder / "..data_tmp").symlink_to(version.name)

    def swap() -> None:
        (files.folder / "..data_tmp").replace(data)
        for name in new:
            path = files.folder / name
            if not path.is_symlink():
                path.unlink(missing_ok=True)
                path.symlink_to(f"..data/{name}")

    return [fill, swap]


def with_old_times(files: ReplacedFiles, credentials: Credentials) -> Steps:
    """Replace the files, and give them the times of those before."""
    new = files.contents(credentials)
    times = {name: (files.folder / name).stat() for name in new}

    def write() -> None:
        files.write(new)
        for name, found in times.items():
            os.utime(files.folder / name, ns=(found.st_atime_ns, found.st_mtime_ns))

    return [lambda: None, write]


ORDERS = (
    key_first,
    certificate_first,
    passphrase_last,
    renamed,
    truncated,
    removed,
    swapped,
    with_old_times,
)
"""The ways in which tools replace the files."""


@define
class Storm:
    """Callers that repeat their calls while the files of the certificate are replaced.

    Attributes:
        sandbox: The platform that is called.
        files: The files of the client's certificate.
        callers: The number of callers.
        clock: The clock of the client.
        done: The number of the caller of each call that has ended.
        told: What the client has reported.
    """

    sandbox: Sandbox
    files: ReplacedFiles
    callers: int
    clock: ManualClock = field(factory=ManualClock)
    done: list[int] = field(factory=list)
    told: list[CertificateRenewal] = field(factory=list)
    _stop: threading.Event = field(factory=threading.Event)

    @contextmanager
    def in_threads(self, calls: Sequence[Callable[[], object]]) -> Iterator[None]:
        """Repeat each call in a thread of its own, and raise the error of any."""

        def repeat(number: int, call: Callable[[], object]) -> None:
            while not self._stop.is_set():
                call()
                self.done.append(number)

        with ThreadPoolExecutor(len(calls)) as pool:
            yield from self._until_stopped(
                [pool.submit(repeat, *each) for each in enumerate(calls)]
            )

    @contextmanager
    def in_tasks(
        self,
        calls: Sequence[Callable[[], Awaitable[object]]],
        client: AbstractAsyncContextManager[object],
    ) -> Iterator[None]:
        """Repeat each call in a task of its own in one event loop, and raise the error of any.

        Args:
            calls: The calls.
            client: What has to be closed in the event loop.
        """

        async def repeat(number: int, call: Callable[[], Awaitable[object]]) -> None:
            while not self._stop.is_set():
                await call()
                self.done.append(number)

        async def run() -> None:
            async with client, asyncio.TaskGroup() as tasks:
                for each in enumerate(calls):
                    tasks.create_task(repeat(*each))

        with ThreadPoolExecutor(1) as pool:
            yield from self._until_stopped([pool.submit(asyncio.run, run())])

    def _until_stopped(self, callers: Iterable[Future[None]]) -> Iterator[None]:
        try:
            yield
        finally:
            self._stop.set()
            for caller in callers:
                caller.result(30)

    def hear(self, renewal: CertificateRenewal) -> None:
        """Record what the client reports."""
        self.told.append(renewal)

    def replace_ten_times(
        self, source: ContextSource, wait_for_calls_from_before: Callable[[], None]
    ) -> None:
        """Replace the files in every order, and require that each certificate comes into use.

        A state between two steps is no whole pair: the client reads and refuses it.

        Args:
            source: The TLS context of the client.
            wait_for_calls_from_before: Waits until the calls have ended that use the certificate
                from before.
        """
        source.subscribe(self.hear)
        for number in range(10):
            new, before = issue(self.sandbox, ("second", "first")[number % 2]), source.context
            *partial, last = ORDERS[number % len(ORDERS)](self.files, new)
            for step in partial:
                found, told = self.files.found, len(self.told)
                step()
                self.look()
                while self.files.found != found and len(self.told) == told:
                    self.look()
                assert source.context is before
            last()
            while source.context is before:
                self.look()
            wait_for_calls_from_before()
            self.wait_for_new_calls()
            used = {each.certificate for each in self.sandbox.exchanges[-CONNECTIONS:]}
            assert used == {new.fingerprint}
        refused = {reason.rule for renewal in self.told for reason in renewal.reasons}
        assert refused == {
            Rule.KEY_MATCHES,
            Rule.PASSPHRASE,
            Rule.READABLE,
            Rule.CHAIN_COMPLETE,
            Rule.AUTHORITIES,
        }
        assert len([renewal for renewal in self.told if not renewal.reasons]) == 10
        assert {each.status for each in self.sandbox.exchanges} == {200}

    def look(self) -> None:
        """Let a call look at the files."""
        self.clock.seconds += LOOK
        self.wait_for_new_calls()

    def wait_for_each_caller(self) -> None:
        """Wait until each caller has ended a call."""
        count = len(self.done)
        wait_until(lambda: len({*self.done[count:]}) == self.callers)

    def wait_for_new_calls(self) -> None:
        """Wait until more calls have ended than were in progress."""
        enough = len(self.done) + CONNECTIONS + 1
        wait_until(lambda: len(self.done) >= enough)
