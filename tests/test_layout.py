"""The arrows of the house: which folder may import which, and that the folder ssl/ never hides Python's own ssl."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

FOLDERS = ("ssl", "supervised", "augment", "probes", "models", "datasets")
MAY_USE = {
    "ssl": {"augment"},
    "supervised": {"augment"},
    "augment": set(),
    "probes": set(),
    "models": set(),
    "datasets": set(),
    "multicrop": set(),
}
FILES = [path for folder in MAY_USE for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> list[str]:
    """Absolute module names that a file imports, relative ones resolved: "multicrop.augment.blur", "torch.nn", ..."""
    package = ["multicrop", *path.relative_to(ROOT).parts[:-1]]
    if package[1] == "multicrop":
        package = package[1:]
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = [*base, *(node.module.split(".") if node.module else [])]
            names += [".".join([*stem, alias.name]) for alias in node.names]
    return names


def wrong_arrows(path: Path) -> list[str]:
    folder = path.relative_to(ROOT).parts[0]
    allowed = {folder} | MAY_USE[folder]
    wrong = []
    for name in imported(path):
        parts = name.split(".")
        inside = parts[0] == "multicrop" and len(parts) > 1
        target = parts[1] if inside and parts[1] in FOLDERS else "multicrop" if parts[0] == "multicrop" else None
        if target and target not in allowed:
            wrong.append(f"{folder} -> {target} ({name})")
        if parts[0] in (*FOLDERS, "train_ssl", "finetune", "eval_knn") and parts[0] != "ssl" and len(parts) > 1:
            wrong.append(f"bare import of {name}")
        if name.startswith("torch.distributed") and path.name != "ranks.py":
            wrong.append(f"{name} outside multicrop/ranks.py")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows(path):
    assert wrong_arrows(path) == []


def test_a_wrong_arrow_would_be_caught(tmp_path, monkeypatch):
    monkeypatch.setattr("test_layout.ROOT", tmp_path)
    (tmp_path / "ssl").mkdir()
    file = tmp_path / "ssl" / "x.py"
    for line in (
        "from ..models import vit",
        "from multicrop.probes.knn import knn",
        "import torch.distributed as dist",
    ):
        file.write_text(line)
        assert len(wrong_arrows(file)) == 1, line
    file.write_text("from ..augment.blur import blur\nfrom .head import Head\nimport torch")
    assert wrong_arrows(file) == []


@pytest.mark.parametrize("folder", [*FOLDERS, "launch", "tests", "benchmarks"])
def test_folders_are_parts_of_multicrop_not_packages(folder):
    assert not (ROOT / folder / "__init__.py").exists()


def test_files_stay_short_and_are_named_after_a_noun():
    for path in [*FILES, *ROOT.glob("*.py")]:
        assert path.stem not in ("utils", "helpers", "misc", "common"), path
        assert len(path.read_text().splitlines()) <= 350, path


CHECK = """
import ssl, urllib.request
assert hasattr(ssl, "SSLContext"), ssl
import multicrop.ssl.head
assert hasattr(multicrop.ssl.head, "Head") and "SSLContext" not in dir(multicrop.ssl)
import ssl as again
assert again is ssl
"""


def test_ssl_is_pythons_own_in_a_script_at_the_root(tmp_path):
    script = ROOT / "train_ssl.py"
    code = f"import runpy; runpy.run_path({str(script)!r}, run_name='x')\n" + CHECK
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


@pytest.mark.slow
def test_ssl_is_pythons_own_under_torchrun_and_in_a_loaders_workers(tmp_path):
    """The worker imports by itself (spawn), as on macOS and Windows."""
    script = tmp_path / "check.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{CHECK}\n"
        "from torch.utils.data import DataLoader, Dataset\n"
        "class Check(Dataset):\n"
        "    def __len__(self): return 2\n"
        "    def __getitem__(self, i):\n"
        f"        exec({CHECK!r}, {{}})\n"
        "        return i\n"
        "if __name__ == '__main__':\n"
        "    loader = DataLoader(Check(), num_workers=1, multiprocessing_context='spawn')\n"
        "    assert [int(i) for i in loader] == [0, 1]\n"
    )
    words = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(script)]
    subprocess.run([sys.executable, *words], check=True, cwd=ROOT, timeout=240)
