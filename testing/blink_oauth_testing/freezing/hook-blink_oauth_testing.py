"""The files that the sandbox and its validators read, which are no modules."""  # noqa: N999 - PyInstaller's name

from importlib.util import find_spec
from pathlib import Path

SPEC = "blink_oauth_testing/sandbox/spec"
FOLDERS = (SPEC, "openapi_schema_validator/schemas", "openapi_spec_validator/resources")
CHECKOUT = Path(__file__).parents[3] / "spec" / "openapi.yaml"


def data_files(folder: str) -> list[tuple[str, str]]:
    """Return the files below a folder of an installed package, each with its place."""
    package, _, below = folder.partition("/")
    spec = find_spec(package)
    parents = [Path(each) for each in (spec and spec.submodule_search_locations) or ()]
    return [
        (str(file), file.relative_to(parent.parent).parent.as_posix())
        for parent in parents
        for file in sorted((parent / below).rglob("*"))
        if file.is_file()
    ]


datas = [file for folder in FOLDERS for file in data_files(folder)]
if CHECKOUT.is_file():
    datas.append((str(CHECKOUT), SPEC))
