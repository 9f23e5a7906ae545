"""The faults of the connection and of the platform, one at a time."""

from __future__ import annotations

from blink_oauth.errors import STATUS_PAGE
from cli.doctor import injection
from cli.doctor.fault import FAIL, FAIL_WITHOUT_SERVER, WARN, Fault
from cli.doctor.harness import SHORT_TIMEOUTS
from cli.doctor.injection import arguments, certificate_issued_by, certificate_with, settings_with

NETWORK_FAULTS: dict[str, Fault] = {
    "certificate of an unknown authority": Fault(
        injection.issued_by_unknown_authority,
        "reachable",
        FAIL,
        "registered with the platform",
        frozenset({"clock", "call"}),
    ),
    "ca file of another authority": Fault(
        certificate_with(ca=injection.unknown_root),
        "reachable",
        FAIL,
        "Check base_url",
        FAIL_WITHOUT_SERVER,
    ),
    "other server name": Fault(
        injection.server_with(lambda authority: authority.issue_server(("elsewhere.example",))),
        "reachable",
        FAIL,
        "Check base_url",
        FAIL_WITHOUT_SERVER,
    ),
    "server's certificate expired": Fault(
        injection.server_with(injection.expired_server),
        "reachable",
        FAIL,
        "tell the operator of the server",
        FAIL_WITHOUT_SERVER,
    ),
    "platform unavailable": Fault(
        settings_with(base_url=injection.closed_port),
        "reachable",
        FAIL,
        f"platform is down: try later. Its status page: {STATUS_PAGE}",
        FAIL_WITHOUT_SERVER,
    ),
    "name not found": Fault(
        settings_with(base_url="https://blink.example/consent-flow/v2"),
        "reachable",
        FAIL,
        "name server",
        FAIL_WITHOUT_SERVER,
    ),
    "silent server": Fault(
        settings_with(base_url=injection.silent_server, timeouts=SHORT_TIMEOUTS),
        "reachable",
        FAIL,
        "firewall",
        FAIL_WITHOUT_SERVER,
    ),
    "no certificate asked for": Fault(
        injection.server_with_behaviour(get_status=lambda certified: 405, source="PLATFORM"),
        "without_certificate",
        WARN,
        "not to terminate TLS",
    ),
    "server error without a certificate": Fault(
        injection.server_with_behaviour(
            get_status=lambda certified: 405 if certified else 502, source="PLATFORM"
        ),
        "without_certificate",
        WARN,
        "not to terminate TLS",
    ),
    "the same refusal with and without a certificate": Fault(
        injection.server_with_behaviour(get_status=lambda certified: 403, source="PLATFORM"),
        "without_certificate",
        WARN,
        "not to terminate TLS",
    ),
    "server error of the platform": Fault(
        injection.server_with_behaviour(
            get_status=lambda certified: 503 if certified else 403, source="PLATFORM"
        ),
        "reachable",
        WARN,
        f"status page: {STATUS_PAGE}",
    ),
    "no Date header": Fault(
        injection.server_with_behaviour(source="PLATFORM", date=False), "clock", WARN, "NTP"
    ),
    "headers dropped by a proxy": Fault(
        injection.server_with_behaviour(), "headers", WARN, "drops or changes headers"
    ),
    "headers refused": Fault(
        injection.server_with_behaviour(
            source="PLATFORM", status=400, body=b'{"type": "/problems/INVALID_PAYLOAD"}'
        ),
        "headers",
        FAIL,
        "Check user_agent",
        frozenset({"call", "revocation"}),
    ),
    "client unknown to the bank": Fault(
        injection.server_with_behaviour(
            source="PROVIDER", status=401, body=b'{"error": "invalid_client"}'
        ),
        "call",
        FAIL,
        "client id of this certificate",
    ),
    "connection lost in the call": Fault(
        injection.failing_revocation("reset-before"), "call", FAIL, "Look again"
    ),
    "too many requests": Fault(
        injection.failing_revocation("too-many-requests"), "call", WARN, "Look again later"
    ),
    "correlation id changed": Fault(
        injection.failing_revocation("wrong-correlation-id"), "headers", WARN, "drops or changes"
    ),
    "a response that may be cached": Fault(
        injection.failing_revocation("cacheable"), "headers", WARN, "drops or changes headers"
    ),
    "username that cannot be sent": Fault(
        arguments(username="x" * 65), "call", FAIL, "Correct the target or the username"
    ),
    "clock ten minutes ahead": Fault(
        arguments(clock=injection.clock_ahead_by(600)), "clock", FAIL, "NTP"
    ),
    "clock ten minutes behind": Fault(
        arguments(clock=injection.clock_ahead_by(-600)), "clock", FAIL, "NTP"
    ),
    "clock twenty seconds ahead": Fault(
        arguments(clock=injection.clock_ahead_by(20)), "clock", WARN, "NTP"
    ),
    "certificate of another client": Fault(
        certificate_issued_by(injection.unregistered), "call", FAIL, "client id of this certificate"
    ),
    "client id of another certificate": Fault(
        settings_with(client_id="CIDX0000000009"), "call", FAIL, "client id of this certificate"
    ),
    "target not permitted": Fault(
        arguments(target_id="IIDX00099"), "call", FAIL, "Check the target's id"
    ),
    "server error of the bank": Fault(
        injection.failing_revocation("internal-server-error"),
        "call",
        WARN,
        f"Look again later; if it stays, ask the bLink support with the correlation id. "
        f"The platform's status page: {STATUS_PAGE}",
    ),
    "no target": Fault(arguments(target_id=None), "call", WARN, "--target"),
}
