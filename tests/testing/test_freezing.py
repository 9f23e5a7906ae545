"""A frozen program has the files that the sandbox reads; the modules are found by their imports."""

from __future__ import annotations

import runpy
import tomllib
from importlib import import_module
from pathlib import Path

from blink_oauth_testing.freezing import hook_folders


def test_the_hook_names_the_contract_and_the_schemas_of_the_validators() -> None:
    (hook,) = [path for folder in hook_folders() for path in Path(folder).glob("hook-*.py")]
    datas = runpy.run_path(str(hook))["datas"]
    assert all(Path(source).is_file() for source, _ in datas)
    placed = {f"{place}/{Path(source).name}" for source, place in datas}
    assert "blink_oauth_testing/sandbox/spec/openapi.yaml" in placed
    assert "openapi_schema_validator/schemas/oas3.1/metaschema.json" in placed
    assert any(each.startswith("openapi_spec_validator/resources/schemas/") for each in placed)


def test_pyinstaller_finds_the_hook() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    entry = project["project"]["entry-points"]["pyinstaller40"]["hook-dirs"]
    module, _, name = entry.partition(":")
    assert getattr(import_module(module), name) is hook_folders
