"""The manager of the tokens, one for each process."""

import atexit
import threading
from functools import cache
from pathlib import Path

from django.conf import settings

from blink_oauth import BlinkOAuth, Settings
from blink_oauth_keeper import KeyFile, SqlTokenStore, TokenManager

_opening = threading.Lock()


def manager() -> TokenManager:
    """Return the manager; open it at the first request, since a server forks its workers before."""
    with _opening:  # Two first requests must not open two.
        return _open_manager()


@cache
def _open_manager() -> TokenManager:
    store = Path(settings.STORE) if "://" not in settings.STORE else settings.STORE
    blink = BlinkOAuth(Settings.from_env())
    opened = TokenManager(blink, SqlTokenStore(store, keys=KeyFile(settings.KEYS_FILE)))
    # WSGI tells no application that the process ends.
    atexit.register(blink.close)
    atexit.register(opened.close)  # It runs first, and finishes the refreshes in progress.
    return opened
