"""The faults in the settings, the certificate and the store, one at a time."""

from __future__ import annotations

from blink_oauth import Timeouts
from cli.doctor import injection
from cli.doctor.fault import FAIL, FAIL_WITHOUT_CERTIFICATE, WARN, Fault
from cli.doctor.harness import OTHER_KEY
from cli.doctor.injection import arguments, certificate_issued_by, certificate_with, settings_with
from wire import certificates

CERTIFICATE_FAULTS: dict[str, Fault] = {
    "no certificate": Fault(
        settings_with(certificate=None),
        "certificate",
        FAIL,
        "BLINK_CERTIFICATE",
        FAIL_WITHOUT_CERTIFICATE | {"without_certificate"},
    ),
    "certificate file missing": Fault(
        certificate_with(chain="nowhere.pem"),
        "certificate",
        FAIL,
        "Name PEM files",
        FAIL_WITHOUT_CERTIFICATE,
    ),
    "key file missing": Fault(
        certificate_with(key="nowhere.key"),
        "certificate_key",
        FAIL,
        "Name PEM files",
        FAIL_WITHOUT_CERTIFICATE,
    ),
    "key of another certificate": Fault(
        certificate_with(key=injection.key_of_other_client),
        "certificate_key",
        FAIL,
        "ordered with",
        FAIL_WITHOUT_CERTIFICATE,
    ),
    "wrong passphrase": Fault(
        certificate_with(passphrase="fake-wrong"),
        "certificate_key",
        FAIL,
        "passphrase",
        FAIL_WITHOUT_CERTIFICATE,
    ),
    "no passphrase": Fault(
        certificate_with(passphrase=None),
        "certificate_key",
        FAIL,
        "passphrase",
        FAIL_WITHOUT_CERTIFICATE,
    ),
    "expired": Fault(
        certificate_issued_by(certificates.expired),
        "certificate_validity",
        FAIL,
        "register a new",
        FAIL_WITHOUT_CERTIFICATE,
    ),
    "not yet valid": Fault(
        certificate_issued_by(certificates.not_yet_valid),
        "certificate_validity",
        FAIL,
        "Check the clock",
        FAIL_WITHOUT_CERTIFICATE,
    ),
    "twenty days left": Fault(
        certificate_issued_by(injection.ends_in_twenty_days),
        "certificate_validity",
        WARN,
        "Order its successor",
        frozenset({"call"}),
    ),
    "nine days left": Fault(
        certificate_issued_by(injection.ends_in_nine_days),
        "certificate_validity",
        FAIL,
        "Order its successor",
        frozenset({"call"}),
    ),
    "an issuer ends in nine days": Fault(
        certificate_issued_by(injection.with_ending_issuer),
        "issuer_validity",
        FAIL,
        "the issuer's present certificate",
        frozenset({"call"}),
    ),
    "the authority ends in twenty days": Fault(
        certificate_with(ca=injection.ending_root),
        "authority_validity",
        WARN,
        "which authority comes next",
    ),
    "key too small": Fault(
        certificate_issued_by(certificates.with_short_key),
        "certificate",
        FAIL,
        "keeps the rule",
        FAIL_WITHOUT_CERTIFICATE,
    ),
    "no client authentication": Fault(
        certificate_issued_by(certificates.for_servers_only),
        "certificate",
        FAIL,
        "keeps the rule",
        FAIL_WITHOUT_CERTIFICATE,
    ),
    "no intermediate": Fault(
        certificate_issued_by(certificates.without_issuers),
        "certificate_chain",
        WARN,
        "each intermediate",
        FAIL_WITHOUT_CERTIFICATE,
    ),
    "root instead of the intermediate": Fault(
        certificate_issued_by(certificates.with_root_instead_of_intermediate),
        "certificate_chain",
        FAIL,
        "each intermediate",
        FAIL_WITHOUT_CERTIFICATE,
    ),
    "key readable for other users": Fault(
        certificate_with(key=injection.world_readable_key), "key_file", WARN, "chmod 600"
    ),
    "authorities missing": Fault(
        certificate_with(ca="nowhere.pem"),
        "server_authorities",
        FAIL,
        "PEM certificates of the server's authorities",
        FAIL_WITHOUT_CERTIFICATE | {"without_certificate"},
    ),
}

SETTINGS_FAULTS: dict[str, Fault] = {
    "production id for test": Fault(
        settings_with(client_id="CIDP0000000002"),
        "client_id",
        FAIL,
        "bLink gave for test",
        frozenset({"call"}),
    ),
    "test id for production": Fault(
        arguments(environment="production"),
        "client_id",
        FAIL,
        "bLink gave for production",
        frozenset({"target_id"}),
    ),
    "odd client id": Fault(
        settings_with(client_id="acme"), "client_id", WARN, "bLink's directory", frozenset({"call"})
    ),
    "production target for test": Fault(
        arguments(target_id="IIDP00001"), "target_id", FAIL, "for test", frozenset({"call"})
    ),
    "user agent without a version": Fault(
        settings_with(user_agent="acme"), "user_agent", WARN, "acme-books/3.2"
    ),
    "lease not above the total timeout": Fault(
        arguments(lease=20.0), "lease", FAIL, "above the total timeout"
    ),
    "lease too long": Fault(arguments(lease=31.0), "lease", FAIL, "at most 30 s"),
    "read timeout above the total": Fault(
        settings_with(timeouts=Timeouts(read=24.0)), "lease", WARN, "Shorten it"
    ),
}

STORE_FAULTS: dict[str, Fault] = {
    "store read-only": Fault(
        injection.read_only_store, "store_writable", FAIL, "Make file and folder"
    ),
    "store locked": Fault(
        injection.locked_store, "store_writable", FAIL, "process that holds the file"
    ),
    "schema newer": Fault(injection.newer_schema, "store_schema", FAIL, "Update blink-oauth"),
    "file is no database": Fault(injection.not_a_database, "store", FAIL, "no SQLite database"),
    "key missing": Fault(
        lambda harness: {"open_store": harness.open_store_with(OTHER_KEY)},
        "store_keys",
        FAIL,
        "Give the missing key back",
    ),
    "pairs sealed with an older key": Fault(
        injection.keys_rotated, "store_keys", WARN, "blink-oauth keys seal"
    ),
    "invalid key": Fault(
        lambda harness: {"open_store": harness.open_store_with("fake-no-key")},
        "store",
        FAIL,
        "its keys",
    ),
    "keys file unreadable": Fault(
        arguments(open_store=injection.unreadable_keys), "store", FAIL, "Correct what is named"
    ),
    "store readable for other users": Fault(
        injection.world_readable_store, "store_file", WARN, "chmod 600"
    ),
    "keys readable for other users": Fault(
        injection.world_readable_keys_file, "store_keys_file", WARN, "chmod 600"
    ),
    "keys file missing": Fault(
        arguments(open_store=injection.keys_missing), "store", FAIL, "Put the file back"
    ),
    "file in place of the store's folder": Fault(
        injection.file_in_place_of_folder,
        "store_file",
        FAIL,
        "folder of its own",
        also_failing=frozenset({"store"}),
    ),
    "grant refused for days": Fault(
        injection.grant_refused_for_days, "store_refusals", WARN, "blink-oauth status"
    ),
    "disk nearly full": Fault(
        arguments(free_bytes=lambda folder: 40_000_000), "store_file", WARN, "Make room"
    ),
}
