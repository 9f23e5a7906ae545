"""The faults on the way to the platform and at it: each breaks one thing."""

from __future__ import annotations

from cli.doctor import planting
from cli.doctor.fault import FAIL, UNREACHED, WARN, Fault
from cli.doctor.harness import HURRY
from cli.doctor.planting import arguments, certificate_of, certificate_with, settings_with

NETWORK_FAULTS: dict[str, Fault] = {
    "certificate of a stranger": Fault(
        planting.stranger_issued,
        "reachable",
        FAIL,
        "registered with the platform",
        frozenset({"clock", "call"}),
    ),
    "wrong authority": Fault(
        certificate_with(ca=planting.stranger_root), "reachable", FAIL, "Check base_url", UNREACHED
    ),
    "other server name": Fault(
        planting.server_with(lambda authority: authority.issue_server(("elsewhere.example",))),
        "reachable",
        FAIL,
        "Check base_url",
        UNREACHED,
    ),
    "server's certificate expired": Fault(
        planting.server_with(planting.expired_server),
        "reachable",
        FAIL,
        "tell the operator of the server",
        UNREACHED,
    ),
    "platform down": Fault(
        settings_with(base_url=planting.closed_port),
        "reachable",
        FAIL,
        "platform is down",
        UNREACHED,
    ),
    "name not found": Fault(
        settings_with(base_url="https://blink.example/consent-flow/v2"),
        "reachable",
        FAIL,
        "name server",
        UNREACHED,
    ),
    "silent server": Fault(
        settings_with(base_url=planting.silent_server, timeouts=HURRY),
        "reachable",
        FAIL,
        "firewall",
        UNREACHED,
    ),
    "no certificate asked for": Fault(
        planting.server_that_answers(looked_at=lambda certified: 405, source="PLATFORM"),
        "without_certificate",
        WARN,
        "proxy or gateway unopened",
    ),
    "another answer without a certificate": Fault(
        planting.server_that_answers(
            looked_at=lambda certified: 405 if certified else 502, source="PLATFORM"
        ),
        "without_certificate",
        WARN,
        "proxy or gateway unopened",
    ),
    "the same refusal with and without a certificate": Fault(
        planting.server_that_answers(looked_at=lambda certified: 403, source="PLATFORM"),
        "without_certificate",
        WARN,
        "proxy or gateway unopened",
    ),
    "platform in trouble": Fault(
        planting.server_that_answers(
            looked_at=lambda certified: 503 if certified else 403, source="PLATFORM"
        ),
        "reachable",
        WARN,
        "status page",
    ),
    "no time told": Fault(
        planting.server_that_answers(source="PLATFORM", date=False), "clock", WARN, "NTP"
    ),
    "headers dropped on the way": Fault(
        planting.server_that_answers(), "headers", WARN, "drops or changes headers"
    ),
    "headers refused": Fault(
        planting.server_that_answers(
            source="PLATFORM", status=400, body=b'{"type": "/problems/INVALID_PAYLOAD"}'
        ),
        "headers",
        FAIL,
        "Check user_agent",
        frozenset({"call"}),
    ),
    "client unknown to the bank": Fault(
        planting.server_that_answers(
            source="PROVIDER", status=401, body=b'{"error": "invalid_client"}'
        ),
        "call",
        FAIL,
        "client id of this certificate",
    ),
    "connection lost in the call": Fault(
        planting.failing_with("reset-before"), "call", FAIL, "Look again"
    ),
    "too many requests": Fault(
        planting.failing_with("too-many-requests"), "call", WARN, "Look again later"
    ),
    "correlation id changed": Fault(
        planting.failing_with("wrong-correlation-id"), "headers", WARN, "drops or changes"
    ),
    "username that cannot be sent": Fault(
        arguments(username="x" * 65), "call", FAIL, "Correct the target or the username"
    ),
    "clock ten minutes ahead": Fault(arguments(clock=planting.ahead(600)), "clock", FAIL, "NTP"),
    "clock ten minutes behind": Fault(arguments(clock=planting.ahead(-600)), "clock", FAIL, "NTP"),
    "clock twenty seconds ahead": Fault(arguments(clock=planting.ahead(20)), "clock", WARN, "NTP"),
    "certificate of another client": Fault(
        certificate_of(planting.unregistered), "call", FAIL, "client id of this certificate"
    ),
    "client id of another certificate": Fault(
        settings_with(client_id="CIDX0000000009"), "call", FAIL, "client id of this certificate"
    ),
    "target not permitted": Fault(
        arguments(target_id="IIDX00099"), "call", FAIL, "Check the target's id"
    ),
    "bank in trouble": Fault(
        planting.failing_with("internal-server-error"), "call", WARN, "Look again later"
    ),
    "no target": Fault(arguments(target_id=None), "call", WARN, "--target"),
}
