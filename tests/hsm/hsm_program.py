"""A program whose client key is in a PKCS#11 module.

Arguments: the URL of the accounts, the redirect URI, the certificate and the key that replace those
in use, the target, a username and a code for each of two grants, and a second code for the last.
Any failure is an exception.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import warnings

from blink_oauth import AsyncBlinkOAuth, BlinkOAuth, Grant, Psu, Secret, Settings, Token
from blink_oauth_keeper import MemoryTokenStore, TokenManager

PSU = Psu(ip="203.0.113.7", user_agent="Mozilla/5.0 (X11; Linux x86_64)")
SECONDS = 30


class Clock:
    """A monotonic clock that the program sets."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def main(
    url: str, redirect_uri: str, certificate: str, key: str, target_id: str, *grants: str
) -> None:
    """Make each kind of call."""
    settings, clock = Settings.from_env(), Clock()
    managed, direct = Grant(target_id, grants[0]), Grant(target_id, grants[2])
    with (
        BlinkOAuth(settings, monotonic=clock) as blink,
        TokenManager(blink, MemoryTokenStore()) as manager,
    ):
        manager.authorize(managed, code=grants[1], redirect_uri=redirect_uri, psu=PSU)
        first = manager.get(managed)
        assert manager.refresh(managed).access_token != first.access_token
        auth = manager.auth(managed, psu=PSU)
        assert manager.client().get(url, auth=auth).status_code == 200
        token = blink.exchange_code(direct, code=grants[3], redirect_uri=redirect_uri, psu=PSU)
        token = blink.refresh(direct, secret_of(token))
        token = asyncio.run(refresh_async(settings, direct, secret_of(token)))

        with warnings.catch_warnings():
            # Newer versions of Python warn of a fork in a process with threads.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            signal.alarm(SECONDS)
            blink.exchange_code(direct, code=grants[4], redirect_uri=redirect_uri, psu=PSU)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

        shutil.copyfile(certificate, os.environ["BLINK_CERTIFICATE"])
        shutil.copyfile(key, os.environ["BLINK_KEY"])
        for _ in range(2):
            clock.seconds += 1.0
            token = blink.refresh(direct, secret_of(token))


async def refresh_async(settings: Settings, grant: Grant, secret: Secret) -> Token:
    """Refresh with an asynchronous client."""
    async with AsyncBlinkOAuth(settings) as client:
        return await client.refresh(grant, secret)


def secret_of(token: Token) -> Secret:
    """Return the refresh token."""
    assert token.refresh_token is not None
    return token.refresh_token


if __name__ == "__main__":
    main(*sys.argv[1:])
