"""The shape of the code: public names, the size of files, and what must not lie where."""

import ast
import importlib
import subprocess
from pathlib import Path

import pytest

import latentwire.errors
from latentwire.errors import LatentwireError

ROOT = Path(__file__).parents[2]
PACKAGES = ("latentwire", "edge_sensor", "edge_server", "training", "benchmarks")
MAX_LINES = 400


def sources(*folders: str) -> list[Path]:
    """Python files written by hand."""
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in files if (ROOT / "latentwire" / "v1") not in path.parents]


def with_all() -> list[str]:
    """Modules that say what they offer."""
    found = []
    for path in sources(*PACKAGES):
        if any(
            isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
            for node in ast.parse(path.read_text()).body
        ):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def test_the_packages_say_what_they_offer() -> None:
    assert {"latentwire", "edge_sensor", "edge_server", "edge_sensor.sources"} <= set(with_all())


@pytest.mark.parametrize("name", with_all())
def test_all_is_sorted_and_holds_every_public_name(name: str) -> None:
    """All that it defines without an underscore; what it imports for its own use, it need not offer."""
    module = importlib.import_module(name)
    names = module.__all__
    order = sorted(set(names), key=lambda n: (0 if n.isupper() else 1 if n[0].isupper() else 2, n))
    assert names == order, "constants, then classes, then the rest"
    assert [each for each in names if not hasattr(module, each)] == []
    defined = {
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and getattr(value, "__module__", None) == name
    }
    assert defined <= set(names)


@pytest.mark.parametrize("path", sources(*PACKAGES, "tests", "tools", "deploy"), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_longer_than_a_reader_bears(path: Path) -> None:
    assert len(path.read_text().splitlines()) < MAX_LINES


def test_proto_is_no_python_package() -> None:
    """An __init__.py there would shadow proto-plus."""
    assert list((ROOT / "proto").rglob("*.proto"))
    assert not list((ROOT / "proto").rglob("*.py"))


def test_every_package_has_its_init() -> None:
    """hatch packs namespace packages too, but import-linter does not see them."""
    for package in PACKAGES:
        for path in sources(package):
            assert (path.parent / "__init__.py").exists(), path.parent


def test_the_hierarchy_of_errors_is_the_one_drawn() -> None:
    drawn = {
        line.strip(" │├└─").split()[0]
        for line in (latentwire.errors.__doc__ or "").splitlines()
        if line.startswith("    ") and line.strip(" │├└─")
    }
    defined = {
        name
        for name, value in vars(latentwire.errors).items()
        if isinstance(value, type) and issubclass(value, LatentwireError)
    }
    assert drawn == defined


def test_errors_are_defined_in_one_place() -> None:
    """Those that leave a module; what one raises and catches by itself begins with an underscore."""
    for path in sources(*PACKAGES):
        if path == ROOT / "latentwire" / "errors.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                bases = [ast.unparse(base) for base in node.bases]
                assert not any(base.endswith(("Error", "Exception")) for base in bases), f"{path}: {node.name}"


def test_nothing_is_unpickled_but_cifars_own_files() -> None:
    """Checkpoints are read with weights_only; the unpickler of datasets.py makes arrays and nothing else."""
    for path in sources(*PACKAGES):
        tree = ast.parse(path.read_text())
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names} | {
            node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
        }
        if imported & {"pickle", "dill", "joblib", "shelve", "marshal"}:
            assert path == ROOT / "latentwire" / "datasets.py"
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load":
                keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                called = ast.unparse(node.func)
                if called == "torch.load":
                    assert keywords.get("weights_only") is True, path
                if called in ("np.load", "numpy.load"):
                    assert keywords.get("allow_pickle") is False, path


def test_git_holds_no_build_output() -> None:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip("no git checkout")
    bad = (".pyc", ".so", ".pt", ".ckpt", ".pkl", ".log")
    assert not [name for name in done.stdout.splitlines() if name.endswith(bad) or "__pycache__" in name]
