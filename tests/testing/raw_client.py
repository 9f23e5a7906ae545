"""An HTTP client for the platform that validates nothing, so that tests can send bad requests."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

import httpx

from blink_oauth.tls import ClientCertificate
from blink_oauth_testing.sandbox import Sandbox

CLIENT_ID = "CIDX0000000002"
STRICT, NON_ROTATING = "IIDX00001", "IIDX00002"
USERNAME = "u-4711"
CALLBACK = "http://127.0.0.1/callback"
HEADERS = {
    "X-Correlation-ID": "11111111-2222-3333-4444-555555555555",
    "User-Agent": "acme-books/3.2",
    "X-CorAPI-Target-ID": STRICT,
    "X-PSU-IP-Address": "203.0.113.7",
    "X-PSU-User-Agent": "Mozilla/5.0",
    "Accept": "application/json, application/problem+json",
}


def tls_context(
    trusted: str, certificate: ClientCertificate | None, maximum: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """Make the TLS context of a client, with or without a certificate."""
    context = ssl.create_default_context(cafile=trusted)
    if certificate is not None and certificate.passphrase is not None:
        context.load_cert_chain(certificate.chain, certificate.key, certificate.passphrase.reveal())
    if maximum is not None:
        context.maximum_version = maximum
    return context


class RawClient:
    """Sends requests to the platform over mutual TLS."""

    def __init__(self, sandbox: Sandbox, client_id: str = CLIENT_ID) -> None:
        self.sandbox = sandbox
        self.client_id = client_id
        certificate = sandbox.client_certificate(client_id)
        self.http = httpx.Client(
            verify=tls_context(str(certificate.ca), certificate),
            base_url=sandbox.base_url,
            trust_env=False,
            timeout=5.0,
        )

    def close(self) -> None:
        self.http.close()

    def post(
        self,
        path: str,
        form: Mapping[str, str],
        *,
        headers: Mapping[str, str | None] | None = None,
    ) -> httpx.Response:
        """Send a form; a header with the value None is left out."""
        request = self.http.build_request("POST", path, data=form)
        for name, value in {**HEADERS, **(headers or {})}.items():
            request.headers.pop(name, None)
            if value is not None:
                request.headers[name] = value
        return self.http.send(request)

    def exchange(self, code: str, *, target_id: str = STRICT, **changes: str) -> httpx.Response:
        form = {
            "grant_type": "authorization_code",
            "client_id": self.client_id,
            "username": USERNAME,
            "code": code,
            "redirect_uri": CALLBACK,
        }
        return self.post("/oauth/token", form | changes, headers={"X-CorAPI-Target-ID": target_id})

    def refresh(
        self, refresh_token: str, *, target_id: str = STRICT, **changes: str
    ) -> httpx.Response:
        form = {
            "grant_type": "refresh_token",
            "client_id": self.client_id,
            "username": USERNAME,
            "refresh_token": refresh_token,
        }
        return self.post("/oauth/token", form | changes, headers={"X-CorAPI-Target-ID": target_id})

    def revoke(self, token: str, *, target_id: str = STRICT, **changes: str) -> httpx.Response:
        form = {"client_id": self.client_id, "username": USERNAME, "token": token}
        return self.post("/oauth/revoke", form | changes, headers={"X-CorAPI-Target-ID": target_id})

    def accounts(
        self, access_token: str | None, *, target_id: str = STRICT, **headers: str
    ) -> httpx.Response:
        sent = {**HEADERS, "X-CorAPI-Target-ID": target_id, **headers}
        if access_token is not None:
            sent["Authorization"] = f"Bearer {access_token}"
        return self.http.get(self.sandbox.accounts_url, headers=sent)

    def tokens(self, target_id: str = STRICT) -> dict[str, str]:
        """Exchange a new code, and return the token response."""
        grant = self.sandbox.grant(target_id, USERNAME)
        code = self.sandbox.issue_code(grant, client_id=self.client_id)
        response = self.exchange(code, target_id=target_id)
        assert response.status_code == 200, response.text
        found: dict[str, str] = response.json()
        return found
