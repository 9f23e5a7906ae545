"""Certificates of one client that replace each other in files, as tools write them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from attrs import define, field

from blink_oauth import ClientCertificate
from blink_oauth_testing.sandbox import Credentials, Sandbox
from blink_oauth_testing.sandbox.certificates import private_key

__all__ = ["ORDERS", "ManualClock", "Order", "ReplacedFiles", "issue", "truncated"]


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
