"""What pip installs: every module of the folders, importable away from the checkout, and Python's ssl untouched."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

FOLDERS = ("multicrop", "ssl", "supervised", "augment", "probes", "models", "datasets")


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return listed.stdout.splitlines()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel of the tracked files, built in a copy so that no stale build/ folder takes part."""
    copy = tmp_path_factory.mktemp("source")
    for name in tracked():
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(out), str(copy)]
    subprocess.run(build, check=True, timeout=300)
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_every_module(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    for name in tracked():
        folder, _, rest = name.partition("/")
        if folder in FOLDERS and name.endswith((".py", ".json")):
            assert (name if folder == "multicrop" else f"multicrop/{folder}/{rest}") in held
    assert {"train_ssl.py", "finetune.py", "eval_knn.py"} <= held


@pytest.mark.slow
def test_an_installed_wheel_works_away_from_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "import ssl, multicrop, multicrop.ssl.head, train_ssl\n"
        f"assert multicrop.__path__ == [{str(site / 'multicrop')!r}], multicrop.__path__\n"
        "assert hasattr(ssl, 'SSLContext')\n"
        "from multicrop.find import names\n"
        "assert 'vit' in names('models') and 'shapes' in names('datasets') and names('ssl.objectives') == ['dino']\n"
        "from multicrop.augment.autoaugment import AutoAugment; AutoAugment('cifar10')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env={"PYTHONPATH": str(site)}, timeout=120)
