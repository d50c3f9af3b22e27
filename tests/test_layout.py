"""The arrows of the house: which folder may import which, and that the folder ssl/ never hides Python's own ssl."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

LEAVES = (
    "models",
    "datasets",
    "augment",
    "probes",
    "pictures",
    "config",
    "engine",
)  # they use no other folder
MAY_USE = {
    **{folder: set() for folder in LEAVES},
    "ssl": {"augment", "config"},
    "supervised": {"augment", "config"},
    "weights": {"engine"},
    "multicrop": {"config", "engine", "weights"},
    "commands": {*LEAVES, "ssl", "supervised", "weights", "multicrop"},
}
FOLDERS = tuple(folder for folder in MAY_USE if folder != "multicrop")
SCRIPTS = ("train_ssl", "finetune", "eval_knn")
OUTSIDE = (
    *FOLDERS,
    *SCRIPTS,
    "launch",
    "tests",
    "benchmarks",
)  # what a part of multicrop never imports by bare name
DISTRIBUTED = [ROOT / "engine" / name for name in ("ranks.py", "sharding.py")]
FILES = [path for folder in MAY_USE for path in sorted((ROOT / folder).rglob("*.py"))]
USERS = [*sorted(ROOT.glob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))]


def imported(path: Path) -> list[str]:
    """Absolute module names that a file imports, relative ones resolved: "multicrop.augment.blur", "torch.nn", ...

    What only a type checker imports is no arrow.
    """
    package = ["multicrop", *path.relative_to(ROOT).parts[:-1]]
    if package[1:2] == ["multicrop"]:
        package = package[1:]
    names = []
    for node in executed(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = [*base, *(node.module.split(".") if node.module else [])]
            names += [".".join([*stem, alias.name]) for alias in node.names]
    return names


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree but for the bodies of `if TYPE_CHECKING:`."""
    yield node
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    for child in ast.iter_child_nodes(node):
        yield from executed(child)


def wrong_arrows(path: Path) -> list[str]:
    folder = path.relative_to(ROOT).parts[0]
    allowed = {folder} | MAY_USE[folder]
    wrong = distributed(path)
    for name in imported(path):
        parts = name.split(".")
        target = None
        if parts[0] == "multicrop":
            target = parts[1] if len(parts) > 1 and parts[1] in FOLDERS else "multicrop"
        if target and target not in allowed:
            wrong.append(f"{folder} -> {target} ({name})")
        if parts[0] in OUTSIDE and not pythons_ssl(parts):
            wrong.append(f"bare import of {name}")
    return wrong


def pythons_ssl(parts: list[str]) -> bool:
    return parts[0] == "ssl" and (len(parts) == 1 or not (ROOT / "ssl" / f"{parts[1]}.py").exists())


def distributed(path: Path) -> list[str]:
    """Imports and uses of torch.distributed outside the two files that know it."""
    if path in DISTRIBUTED:
        return []
    uses = [
        f"torch.distributed at line {node.lineno}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.distributed"
    ]
    return uses + [
        f"import of {name}" for name in imported(path) if name.startswith("torch.distributed")
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows(path):
    assert wrong_arrows(path) == []


@pytest.mark.parametrize("path", USERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_and_benchmarks_leave_processes_to_ranks(path):
    assert distributed(path) == []


@pytest.mark.parametrize("path", USERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_and_benchmarks_import_the_folders_through_multicrop(path):
    wrong = [
        name
        for name in imported(path)
        if name.split(".")[0] in FOLDERS and not pythons_ssl(name.split("."))
    ]
    assert wrong == []


WRONG = {
    "ssl": [
        "from ..models import vit",
        "from multicrop.probes.knn import knn",
        "from multicrop.weights import pretrained",
        "from ..engine import ranks",
        "from .. import registry",
        "import multicrop",
        "import torch.distributed as dist",
        "from torch import distributed",
        "import torch\ntorch.distributed.barrier()",
        "import datasets",
        "import models",
        "from ssl import head",
        "import train_ssl",
        "import eval_knn",
        "import benchmarks.train_step",
        "from benchmarks import train_step",
        "from tests import conftest",
        "import launch",
    ],
    "models": [
        "from ..augment import blur",
        "from multicrop.config.backbone import BackboneSettings",
    ],
    "pictures": ["from ..probes.confusion import Confusion"],
    "config": ["from .. import registry", "from ..engine import ranks"],
    "engine": ["from ..config.machine import RunSettings", "from multicrop import registry"],
    "weights": ["from ..models import vit"],
    "multicrop": ["from .commands import pretrain", "from .models import vit"],
    "commands": ["from train_ssl import main", "from torch import distributed"],
}


@pytest.mark.parametrize(
    ("folder", "line"), [(folder, line) for folder, lines in WRONG.items() for line in lines]
)
def test_a_wrong_arrow_is_caught(folder, line, tmp_path, monkeypatch):
    monkeypatch.setattr("test_layout.ROOT", tmp_path)
    for name in ("ssl", folder):
        (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / "ssl" / "head.py").write_text("")
    file = tmp_path / folder / "x.py"
    file.write_text(line)
    assert len(wrong_arrows(file)) == 1


RIGHT = {
    "ssl": "from ..augment.blur import blur\nfrom ..config.pretrain import Recipe\nfrom .head import Head\n"
    "import ssl, torch\nfrom ssl import SSLContext",
    "weights": "from ..engine import checkpoint\nfrom . import loading",
    "multicrop": "from . import cli, registry\nfrom .engine import ranks\nfrom .config.flags import to_flags\n"
    "if TYPE_CHECKING:\n    from .augment.evaluation import EvalTransform",
    "commands": "from multicrop import cli\nfrom multicrop.models import vit\nfrom multicrop.commands import _data",
}


@pytest.mark.parametrize("folder", RIGHT)
def test_right_arrows_pass(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("test_layout.ROOT", tmp_path)
    (tmp_path / folder).mkdir()
    file = tmp_path / folder / "x.py"
    file.write_text(RIGHT[folder])
    assert wrong_arrows(file) == []


@pytest.mark.parametrize("folder", [*FOLDERS, "launch", "tests", "benchmarks"])
def test_folders_are_parts_of_multicrop_not_packages(folder):
    assert not (ROOT / folder / "__init__.py").exists()


def test_root_scripts_teach_and_call_a_command():
    for name in SCRIPTS:
        path = ROOT / f"{name}.py"
        ours = [name for name in imported(path) if name.startswith("multicrop")]
        assert len(ours) == 1 and ours[0].startswith("multicrop.__main__"), path
        (command,) = re.findall(r'main\(\["(\w+)", ', path.read_text())
        assert (ROOT / "commands" / f"{command}.py").exists(), path
        assert len(path.read_text().splitlines()) < 40, path


def test_commands_are_read_in_one_go():
    for path in sorted((ROOT / "commands").glob("*.py")):
        assert len(path.read_text().splitlines()) <= 260, path


def test_only_scripts_that_are_published_lie_at_the_root():
    assert sorted(path.stem for path in ROOT.glob("*.py")) == sorted(SCRIPTS)


def test_files_stay_short_and_are_named_after_a_noun():
    for path in [*FILES, *USERS]:
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


@pytest.mark.slow
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
    words = ["-m", "torch.distributed.run", "--nproc-per-node", "1", "--standalone", str(script)]
    subprocess.run([sys.executable, *words], check=True, cwd=ROOT, timeout=240)


@pytest.mark.parametrize(
    "folder",
    ["commands", "config", "engine", "weights", "ssl", "supervised", "augment", "probes", "models", "datasets",
     "pictures", "multicrop"],
)  # fmt: skip
def test_no_files_of_a_folder_import_each_other_in_a_circle(folder):
    paths = {}
    for path in (ROOT / folder).rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        paths[module.removeprefix("multicrop.")] = path
    imports = {}
    for module, path in paths.items():
        package = module.split(".")[:-1]
        targets = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else []
                stem = ".".join([*above, *(node.module or "").split(".")]).strip(".")
                names = [stem, *(f"{stem}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            targets.update(name.removeprefix("multicrop.").strip(".") for name in names)
        imports[module] = (targets & set(paths)) - {module}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))
