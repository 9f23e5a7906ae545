"""Get a fresh token from a hand-written SQLite cache with Authlib; print True. Run by `start`."""

import json
import sqlite3
import ssl
import sys
import warnings
from pathlib import Path

with warnings.catch_warnings():
    # Authlib warns that it prefers httpx2.
    import authlib.deprecate  # type: ignore

    warnings.simplefilter("ignore", authlib.deprecate.AuthlibDeprecationWarning)
    from authlib.integrations.httpx_client import OAuth2Client  # type: ignore

client_id, target_id, username = sys.argv[2:]
folder = Path(sys.argv[1])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.load_verify_locations(folder / "ca.pem")
context.load_cert_chain(
    folder / "client.pem", folder / "client.key", (folder / "client.passphrase").read_text()
)
cache = sqlite3.connect(folder / "cache.db")
(text,) = cache.execute(
    "SELECT token FROM tokens WHERE target_id = ? AND username = ?", (target_id, username)
).fetchone()
with OAuth2Client(
    client_id,
    token=json.loads(text),
    token_endpoint="https://blink.invalid/consent-flow/v2/oauth/token",  # noqa: S106
    verify=context,
    trust_env=False,
) as client:
    fresh = client.ensure_active_token(client.token)
    print(bool(fresh and client.token["access_token"]), flush=True)
cache.close()
