"""The wheel holds the YAML files, the constraints fit pyproject.toml, the Makefile says what it offers."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what it is made of, without a network."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: pip install hatchling")
    source = tmp_path_factory.mktemp("source")
    for name in ("distill", "conf"):
        shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "scripts").mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "scripts/package_readme.py"):
        shutil.copy(REPO / name, source / name)
    code = "from hatchling.build import build_wheel; print(build_wheel('dist'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = (source / "dist").glob("distill-0.2.0-py3-none-any.whl")
    return built


def test_pages_of_the_packages_lead_to_what_is_in_them(wheel: Path, tmp_path: Path) -> None:
    """Those of a wheel led to CONTRIBUTING.md and records of the checkout, so did the sdist's."""
    code = f"from hatchling.build import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)
    (packed,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    assert "distill/docs/cluster.md" in files
    for names in (files, set(zipfile.ZipFile(wheel).namelist())):
        there = {str(above) for name in names for above in (Path(name), *Path(name).parents)}
        for page in (name for name in names if name.endswith(".md")):
            for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", (REPO / page).read_text(encoding="utf-8")):
                assert os.path.normpath(Path(page).parent / link) in there, (page, link)


def test_the_readme_of_an_index_leads_nowhere_that_is_not_there(wheel: Path) -> None:
    described = zipfile.ZipFile(wheel).read("distill-0.2.0.dist-info/METADATA").decode()
    assert "Description-Content-Type: text/markdown" in described and "Own data and models: image folders" in described
    assert re.findall(r"\]\((?!https?:|#)[^)]*\)", described) == []


def test_wheel_holds_every_yaml_and_nothing_beside_the_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for file in (REPO / "conf").rglob("*.yaml"):
        assert f"distill/conf/{file.relative_to(REPO / 'conf').as_posix()}" in names
    assert {name.split("/")[0] for name in names} == {"distill", "distill-0.2.0.dist-info"}
    assert "distill/py.typed" in names


def test_installed_wheel_works_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    target, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", str(target), str(wheel)], check=True)
    env = os.environ | {"PYTHONPATH": str(target)}
    command = [sys.executable, "-m", "distill", "--cfg", "job", "--resolve", "method=crd", "dataset=cifar100"]
    done = subprocess.run(command, cwd=empty, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "_target_: distill.methods.crd.CRD" in done.stdout and "epochs: 240" in done.stdout
    script = subprocess.run(
        [target / "bin" / "distill", "method=crdd"], cwd=empty, env=env, capture_output=True
    )
    assert script.returncode == 2 and b"did you mean crd" in script.stderr
    where = "import distill.config as c; print(c.conf_dir())"
    found = subprocess.run([sys.executable, "-c", where], cwd=empty, env=env, capture_output=True, text=True)
    assert Path(found.stdout.strip()) == target / "distill" / "conf"


def test_constraints_pin_what_is_declared_and_name_no_host() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())
    text = (REPO / "constraints.txt").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", text, re.MULTILINE))
    assert "://" not in text and "nvidia" not in text and "@" not in text
    declared = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    for requirement in map(Requirement, declared):
        name = requirement.name.lower()
        assert name in pins, f"{name} is missing in constraints.txt"
        assert requirement.specifier.contains(pins[name]), f"{name}=={pins[name]} against {requirement}"


# of extras, or of torch's CUDA builds: never imported at the top of a file
OPTIONAL = {"triton", "submitit", "ray", "optuna", "onnxruntime", "onnxscript"}
ROOMS = {"search": "optuna"}  # packages that are nothing without an extra, which their command.py asks for first


def imported(file: Path) -> Iterator[tuple[str, bool]]:
    """The top-level names of all modules that a file imports, and whether importing the file imports them."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.col_offset == 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0], node.col_offset == 0


MODULES = {  # of packages whose modules are called otherwise, or are reached through another's
    "scikit-learn": "sklearn", "hydra-core": "hydra", "pyyaml": "yaml", "pillow": "PIL",
    "hydra-submitit-launcher": "hydra_plugins.hydra_submitit_launcher", "tensorboard": "torch.utils.tensorboard",
}  # fmt: skip


def module_of(requirement: str) -> str:
    """The module by which a declared package is imported."""
    name = Requirement(requirement).name.lower()
    return MODULES.get(name, name.replace("-", "_"))


def test_all_that_is_declared_is_imported() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    text = "\n".join(file.read_text() for file in (REPO / "distill").rglob("*.py"))
    unused = [line for line in declared if not re.search(rf"^ *(import|from) {module_of(line)}\b", text, re.MULTILINE)]
    assert unused == []


def test_all_third_party_imports_are_declared() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())
    modules = {module_of(line) for line in project["project"]["dependencies"]}
    modules |= {"distill", "hydra_plugins"} | sys.stdlib_module_names  # Hydra finds plugins in that namespace
    for file in (REPO / "distill").rglob("*.py"):
        room = ROOMS.get(file.relative_to(REPO / "distill").parts[0]) if file.name != "command.py" else None
        for module, at_once in imported(file):
            known = module in modules or (module in OPTIONAL and not at_once) or module == room
            assert known, f"{file.relative_to(REPO)} imports {module}, which pyproject.toml does not declare"


def test_make_lists_its_targets() -> None:
    shown = subprocess.run(["make", "-C", str(REPO), "--no-print-directory"], capture_output=True, text=True)
    assert shown.returncode == 0
    for target in ("run", "test", "lint", "methods", "bench", "clean"):
        assert re.search(rf"^  make {target}\s+\w", shown.stdout, re.MULTILINE), target


def test_version_is_the_packages() -> None:
    import distill

    assert distill.__version__ == "0.2.0"
