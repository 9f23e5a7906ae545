"""`doctor` reports each injected fault with its remedy, and no unrelated fault."""

from __future__ import annotations

import pytest

from blink_oauth_cli.check import Level
from cli.doctor.faults import CERTIFICATE_FAULTS, SETTINGS_FAULTS, STORE_FAULTS
from cli.doctor.harness import Harness
from cli.doctor.network_faults import NETWORK_FAULTS

FAULTS = CERTIFICATE_FAULTS | SETTINGS_FAULTS | STORE_FAULTS | NETWORK_FAULTS


def test_without_a_fault_every_check_is_ok(harness: Harness) -> None:
    checks = harness.checks(settings=harness.sandbox.settings())
    assert [check for check in checks.values() if check.level is not Level.OK] == []
    assert list(checks) == [
        "client_id",
        "target_id",
        "user_agent",
        "certificate",
        "certificate_key",
        "certificate_chain",
        "certificate_validity",
        "issuer_validity",
        "authority_validity",
        "key_file",
        "server_authorities",
        "lease",
        "reachable",
        "without_certificate",
        "clock",
        "call",
        "headers",
        "revocation",
        "store_file",
        "store",
        "store_schema",
        "store_writable",
        "store_keys",
    ]


@pytest.mark.parametrize("name", FAULTS)
def test_an_injected_fault_is_reported_with_its_remedy(harness: Harness, name: str) -> None:
    fault = FAULTS[name]
    checks = harness.checks(**fault.inject(harness))
    found = checks[fault.name]
    assert found.level is fault.level, found
    assert found.remedy is not None
    assert fault.remedy in found.remedy, found
    wrong = {check.name for check in checks.values() if check.level is not Level.OK}
    assert wrong == {fault.name} | fault.also_failing, [checks[name] for name in wrong]
