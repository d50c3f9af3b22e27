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
def source(tmp_path_factory) -> Path:
    """A copy of the tracked files, so that no stale build/ folder takes part and nothing is left in the checkout."""
    copy = tmp_path_factory.mktemp("source")
    for name in tracked():
        if not name.startswith("tests/golden/") and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    return copy


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        out,
        source,
    ]
    subprocess.run(pip, check=True, timeout=300)
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_every_module(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    for name in tracked():
        folder, _, rest = name.partition("/")
        if folder in FOLDERS and name.endswith((".py", ".json")):
            assert (name if folder == "multicrop" else f"multicrop/{folder}/{rest}") in held
    assert {
        "train_ssl.py",
        "finetune.py",
        "evaluation.py",
        "eval_knn.py",
        "precompute.py",
        "visualise.py",
    } <= held


@pytest.mark.slow
def test_an_installed_wheel_works_away_from_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "import ssl, multicrop, multicrop.ssl.head, train_ssl\n"
        f"assert multicrop.__path__ == [{str(site / 'multicrop')!r}], multicrop.__path__\n"
        "assert hasattr(ssl, 'SSLContext')\n"
        "from multicrop.registry import names\n"
        "assert 'vit' in names('models') and 'shapes' in names('datasets') and names('ssl.objectives') == ['dino']\n"
        "from multicrop.augment.autoaugment import AutoAugment; AutoAugment('cifar10')\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(site)},
        timeout=120,
    )


@pytest.mark.slow
def test_an_editable_install_works_away_from_the_checkout(source, tmp_path):
    """Into an environment of its own, which sees the packages of this one."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=120
    )
    programs = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    python = programs / "python"
    site = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True,
                          capture_output=True, text=True).stdout.strip()  # fmt: skip
    (Path(site) / "outer.pth").write_text(
        "\n".join(path for path in sys.path if "site-packages" in path)
    )
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
    ]
    subprocess.run([*install, "-e", source], check=True, timeout=300)
    code = (
        "import ssl, multicrop, multicrop.ssl.head, train_ssl, finetune, evaluation, eval_knn, precompute, visualise\n"
        f"assert train_ssl.__file__ == {str(source / 'train_ssl.py')!r}, train_ssl.__file__\n"
        f"assert multicrop.ssl.head.__file__ == {str(source / 'ssl' / 'head.py')!r}, multicrop.ssl.head.__file__\n"
        "assert hasattr(ssl, 'SSLContext')\n"
        "from multicrop.registry import names\n"
        "assert 'vit' in names('models') and 'shapes' in names('datasets') and 'dino' in names('ssl.objectives')\n"
    )
    subprocess.run([python, "-c", code], check=True, cwd=tmp_path, timeout=120)
    done = subprocess.run(
        [programs / "multicrop-train-ssl", "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode == 0 and "--blur_sigma" in done.stdout
