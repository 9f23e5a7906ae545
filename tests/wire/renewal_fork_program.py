"""A program that forks while a thread looks at the files of the certificate.

`test_renewal` starts it as a separate process, because a fork copies the locks that other threads
hold. It ends with status 0 if parent and child renew the certificate afterwards.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from datetime import UTC, datetime
from pathlib import Path

from blink_oauth import Settings
from blink_oauth.renewal import CertificateRenewal, ContextSource

SECONDS = 30


class HaltingListener:
    """Halts the thread that found the first renewal, until it is released."""

    def __init__(self) -> None:
        self.reached, self.over = threading.Event(), threading.Event()

    def hear(self, renewal: CertificateRenewal) -> None:
        """Receive a renewal."""
        self.reached.set()
        self.over.wait(SECONDS)


def main(second: Path, third: Path) -> None:
    """Renew with the files of `second` before the fork, and with those of `third` after it."""
    settings, seconds, listener = Settings.from_env(), [0.0], HaltingListener()
    source = ContextSource(settings, lambda: datetime.now(UTC), lambda: seconds[0])
    source.subscribe(listener.hear)
    source.load()
    folder = Path(os.environ["BLINK_CERTIFICATE"]).parent

    def renew(made: Path) -> None:
        before = source.context
        for file in made.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        for _ in range(2):
            seconds[0] += 1.0
            if source.is_due():
                source.look()
        assert source.context is not before

    thread = threading.Thread(target=renew, args=[second])
    thread.start()
    assert listener.reached.wait(SECONDS)
    with warnings.catch_warnings():
        # Newer versions of Python warn of a fork in a process with threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    listener.over.set()
    if not child:
        signal.alarm(SECONDS)
        renew(third)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    thread.join(SECONDS)
    renew(third)
    sys.exit(status)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
