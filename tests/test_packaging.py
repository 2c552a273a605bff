"""What a user installs: the wheel has every file, one version, the licence; constraints pin every dependency."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rewarden

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True,
                   capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return HeaderParser().parsestr(wheel.read(name).decode())


def test_the_wheel_holds_every_file_of_the_package(wheel):
    files = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src" / "rewarden").rglob("*")
             if path.is_file() and "__pycache__" not in path.parts}
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == files
    assert {"rewarden/py.typed", "rewarden/demo/models/manifest.json",
            "rewarden/demo/models/reward_model/model.safetensors"} <= packed


def test_the_wheel_stays_small(wheel):
    bundled = sum(info.file_size for info in wheel.infolist() if info.filename.startswith("rewarden/demo/"))
    assert bundled <= 40 * MEGABYTE


def test_metadata(metadata):
    assert (metadata["Name"], metadata["Version"], metadata["License-Expression"], metadata["Requires-Python"]) == (
        "rewarden", rewarden.__version__, "Apache-2.0", ">=3.11")
    assert metadata.get_all("License-File") == ["LICENSE"]


def test_licence_and_entry_point_are_inside(wheel):
    inside = {name.split(".dist-info/")[1]: name for name in wheel.namelist() if ".dist-info/" in name}
    assert "Apache License" in wheel.read(inside["licenses/LICENSE"]).decode()
    assert "rewarden = rewarden.cli:main" in wheel.read(inside["entry_points.txt"]).decode()


def test_one_version_everywhere():
    citation = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert citation is not None
    assert newest is not None
    assert [citation[1], newest[1]] == [rewarden.__version__] * 2
    assert "version" in PROJECT["dynamic"]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): pin for name, pin in rows}


def test_constraints_pin_every_dependency_within_its_range():
    wanted = [Requirement(text) for text in PROJECT["dependencies"]]
    wanted += [Requirement(text) for extra in PROJECT["optional-dependencies"].values() for text in extra]
    wanted = [requirement for requirement in wanted if requirement.name != "rewarden"]
    found = pins()
    assert [r.name for r in wanted if canonicalize_name(r.name) not in found] == []
    assert [r.name for r in wanted if not r.specifier.contains(found[canonicalize_name(r.name)])] == []
    assert (found["torch"], "rewarden" in found) == ("2.13.0", False)


def test_every_library_that_is_imported_is_declared():
    declared = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    optional = {canonicalize_name(Requirement(text).name)
                for extra in ("adapters", "train", "verifiers", "serve") for text in PROJECT["optional-dependencies"][extra]}
    called = {"sklearn": "scikit-learn", "yaml": "pyyaml", "starlette": "fastapi", "referencing": "jsonschema",
              "jsonschema_specifications": "jsonschema"}  # what a package brings along counts as the package
    hosts = {"verl", "omegaconf"}  # trainers that call us in an environment of their own
    imported = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            imported |= {name.split(".")[0] for name in names}
    foreign = {canonicalize_name(called.get(name, name)) for name in imported - {*sys.stdlib_module_names, "rewarden"}}
    assert foreign - declared - optional - hosts == set()


def test_public_names_exist_and_are_listed():
    assert set(rewarden.__all__) == {*rewarden._HOME, *rewarden.PACKAGES, "__version__"}
    missing = [name for name in rewarden.__all__ if getattr(rewarden, name, None) is None]
    assert missing == []
    assert set(rewarden.__all__) <= set(dir(rewarden))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'rewarden' has no attribute 'lode'"):
        rewarden.lode  # noqa: B018  reading the attribute is the test
