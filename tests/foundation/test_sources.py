"""Rules every source file keeps: length, unique test names, no pickles, no unfinished work, and the tools' settings."""

import ast
import subprocess
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON_FOLDERS = ("vision3d", "matching", "recon", "detection", "tests")
MAX_LINES = 400
UNPICKLERS = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def _python_files() -> list[Path]:
    return sorted(path for folder in PYTHON_FOLDERS for path in (ROOT / folder).rglob("*.py"))


def unpickling(source: str) -> list[str]:
    """What in a source can run code from a data file, one line each."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        found += [f"line {node.lineno}: imports {name}" for name in names if name.split(".")[0] in UNPICKLERS]  # type: ignore[attr-defined]
        if not isinstance(node, ast.Call):
            continue
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        called = ast.unparse(node.func)
        if called == "torch.load" and keywords.get("weights_only") != "True":
            found.append(f"line {node.lineno}: torch.load without weights_only=True")
        if keywords.get("allow_pickle", "False") != "False":
            found.append(f"line {node.lineno}: {called} with allow_pickle")
        if called.startswith("yaml.") and called.endswith(("unsafe_load", "full_load")):
            found.append(f"line {node.lineno}: {called}")
        if called in {"yaml.load", "yaml.load_all"} and not ast.unparse(node).rstrip(")").endswith("SafeLoader"):
            found.append(f"line {node.lineno}: {called} without a SafeLoader")
    return found


def test_no_file_is_long() -> None:
    long = {str(p.relative_to(ROOT)): n for p in _python_files() if (n := p.read_text().count("\n")) > MAX_LINES}
    assert not long, f"more than {MAX_LINES} lines, split by concept: {long}"


def test_test_files_have_unique_names() -> None:
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py")
    assert not [name for name, count in names.items() if count > 1]


def test_nothing_unpickles() -> None:
    found = [f"{p.relative_to(ROOT)}: {line}" for p in _python_files() for line in unpickling(p.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
    ],
)
def test_unpickling_is_caught(source: str) -> None:
    assert len(unpickling(source)) == 1


def test_safe_loading_is_allowed() -> None:
    assert unpickling("torch.load(p, weights_only=True)\nnp.load(p)\nyaml.load(t, Loader=_UniqueKeySafeLoader)") == []


def test_no_unfinished_work() -> None:
    words = ("NotImplemented" + "Error", "TO" + "DO", "FIX" + "ME", "XX" + "X")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {word}"
        for path in _python_files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for word in words
        if word in line
    ]
    assert not found, "\n".join(found)


def test_links_point_at_their_folders() -> None:
    for name in ("matching", "recon", "detection", "configs"):
        link = ROOT / "vision3d" / name
        assert link.is_symlink(), f"{link} must be a link (git on Windows: core.symlinks=true)"
        assert link.readlink() == Path("..") / name
        assert link.is_dir()


def test_links_are_committed_as_links() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--stage", "vision3d"], capture_output=True, text=True, check=True
    )
    links = {line.split("\t")[1] for line in done.stdout.splitlines() if line.startswith("120000")}
    assert links == {f"vision3d/{name}" for name in ("matching", "recon", "detection", "configs")}


def test_tools_stay_strict() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tool = settings["tool"]
    assert tool["mypy"]["strict"] is True
    assert {"E", "F", "I", "B", "S301", "S307", "TID"} <= set(tool["ruff"]["lint"]["select"])
    banned = tool["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert {"matching", "recon", "detection", "pickle"} <= set(banned)
    assert "--jaxtyping-packages=vision3d,shape_checks.check" in tool["pytest"]["ini_options"]["addopts"]
    assert set(tool["coverage"]["run"]["source"]) == {"vision3d", "matching", "recon", "detection"}


def test_weights_are_the_same_in_extra_and_group() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(settings["project"]["optional-dependencies"]["weights"]) <= set(settings["dependency-groups"]["weights"])
