"""Check that the built archives hold what users need, and nothing else.

    python tools/check_archives.py FOLDER   the folder with the wheel and the source archive

Exit status: 0 all is there, 1 something is missing or too much.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

WANTED = {
    "wheel": (
        "blink_oauth/__init__.py",
        "blink_oauth/py.typed",
        "blink_oauth_keeper/py.typed",
        "blink_oauth_cli/__main__.py",
        "blink_oauth_testing/pytest_plugin.py",
        "blink_oauth_testing/sandbox/spec/openapi.yaml",
        "blink_oauth_testing/sandbox/spec/examples/token-response.json",
        "blink_oauth_api/api/oauth/request_token.py",
        "blink_oauth_api/py.typed",
    ),
    "sdist": (
        "spec/openapi.yaml",
        "generated/provenance.json",
        "generator-config.yml",
        "noxfile.py",
        "requirements/test.txt",
        "tests/spec/test_spec_rules.py",
        "wrapper/blink_oauth/client.py",
        "keeper/blink_oauth_keeper/manager.py",
        "cli/blink_oauth_cli/main.py",
        "testing/blink_oauth_testing/pytest_plugin.py",
    ),
}
IN_WHEEL = (
    "blink_oauth/",
    "blink_oauth_api/",
    "blink_oauth_cli/",
    "blink_oauth_keeper/",
    "blink_oauth_testing/",
    "blink_oauth-",
)


def main(folder: Path) -> int:
    """Look into both archives and print what is wrong."""
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive, tarfile.open(sdist) as tarball:
        names = {
            "wheel": archive.namelist(),
            "sdist": [name.partition("/")[2] for name in tarball.getnames()],
        }
    faults = [
        f"{kind} lacks {wanted}"
        for kind, wanted_names in WANTED.items()
        for wanted in wanted_names
        if wanted not in names[kind]
    ]
    faults += [f"wheel holds {name}" for name in names["wheel"] if not name.startswith(IN_WHEEL)]
    for path in (wheel, sdist):
        check = [sys.executable, "-m", "twine", "check", "--strict", str(path)]
        if subprocess.run(check, check=False).returncode:
            faults.append(f"{path.name} has unusable metadata")
    print("\n".join(faults) or f"{wheel.name} and {sdist.name} hold what they should.")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
