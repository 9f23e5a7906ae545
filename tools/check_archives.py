"""Check the contents of the built archives: the wheel exactly, the source archive for gaps.

    python tools/check_archives.py FOLDER   the folder with the wheel and the source archive

Exit status: 0 no faults, 1 a file is missing or unexpected, or metadata are invalid.
"""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "wrapper/blink_oauth",
    "keeper/blink_oauth_keeper",
    "cli/blink_oauth_cli",
    "testing/blink_oauth_testing",
    "generated/blink_oauth_api",
)
# The sandbox validates against the contract, so the wheel has a copy of it in this folder.
CONTRACT = "blink_oauth_testing/sandbox"
IN_SDIST = (
    "docs/conf.py",
    "docs/_static/site.css",
    "docs/deployment/Containerfile",
    "docs/deployment/kubernetes/deployment.yaml",
    "docs/deployment/systemd/blink-alarm@.service",
    "docs/how-to/stores.md",
    "docs/reference/manager.md",
    "examples/django/accounts_site/settings.py",
    "examples/django/accounts_site/templates/base.html",
    "examples/fastapi/accounts_service.py",
    "generated/API.md",
    "generated/provenance.json",
    "generator-config.yml",
    "noxfile.py",
    "requirements/test.txt",
    "tests/test_architecture.py",
    "tests/spec/test_spec_rules.py",
    "tools/generation.py",
    "tools/interop/.npmrc",
    "tools/interop/package-lock.json",
    "tools/surface.py",
)


def files(folder: Path) -> set[Path]:
    """Return the files in a folder and below, without bytecode."""
    found = {path for path in folder.rglob("*") if path.is_file()}
    return {path for path in found if "__pycache__" not in path.parts}


def dead_links(description: str) -> list[str]:
    """Return the links of a text in Markdown that need other files of the repository."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", description, flags=re.DOTALL)
    return re.findall(r"\]\((?!https://)([^)\s]*)\)", prose)


def main(folder: Path) -> int:
    """Check both archives and print every fault; return the exit status."""
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive, tarfile.open(sdist) as tarball:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        page = str(email.message_from_bytes(archive.read(metadata)).get_payload())
        in_sdist = {name.partition("/")[2] for name in tarball.getnames()}
    modules = {path for package in PACKAGES for path in files(ROOT / package)}
    contract = {ROOT / "spec/openapi.yaml", *files(ROOT / "spec/examples")}
    sources = {path.relative_to(ROOT).as_posix() for path in modules | contract}
    installed = {path.relative_to(ROOT).as_posix().partition("/")[2] for path in modules}
    installed |= {f"{CONTRACT}/{path.relative_to(ROOT).as_posix()}" for path in contract}
    faults = [
        *(f"wheel lacks {name}" for name in sorted(installed - in_wheel)),
        *(f"wheel should not have {name}" for name in sorted(in_wheel - installed)),
        *(f"sdist lacks {name}" for name in sorted((sources | set(IN_SDIST)) - in_sdist)),
        *(f"the page of the index would have a dead link to {link}" for link in dead_links(page)),
    ]
    for path in (wheel, sdist):
        check = [sys.executable, "-m", "twine", "check", "--strict", str(path)]
        if subprocess.run(check, check=False).returncode:
            faults.append(f"{path.name} has unusable metadata")
    print("\n".join(faults) or f"{wheel.name} and {sdist.name} are complete.")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
