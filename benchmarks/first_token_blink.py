"""Get a fresh token from an SQLite store with blink-oauth; print True. Run by `start`."""

import sys
from pathlib import Path

from blink_oauth import BlinkOAuth, ClientCertificate, Grant, Settings
from blink_oauth_keeper import SqlTokenStore, TokenManager

client_id, target_id, username = sys.argv[2:]
folder = Path(sys.argv[1])
certificate = ClientCertificate(
    folder / "client.pem",
    folder / "client.key",
    (folder / "client.passphrase").read_text(),
    folder / "ca.pem",
)
settings = Settings(
    base_url="https://blink.invalid/consent-flow/v2",
    client_id=client_id,
    user_agent="acme-books/3.2",
    certificate=certificate,
)
store = SqlTokenStore(f"sqlite:///{folder / 'tokens.db'}", keys=[(folder / "key").read_text()])
with BlinkOAuth(settings) as blink, TokenManager(blink, store) as manager:
    token = manager.get(Grant(target_id, username))
    print(bool(token.access_token.reveal()), flush=True)
store.close()
