"""What pip installs: every module of the folders, importable away from the checkout, and Python's ssl untouched."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

FOLDERS = (
    "multicrop", "commands", "config", "engine", "weights", "ssl", "supervised", "augment", "probes", "models",
    "datasets", "pictures",
)  # fmt: skip


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
def test_the_wheel_holds_every_module_and_no_other_top_level_name(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    for name in tracked():
        folder, _, rest = name.partition("/")
        if folder in FOLDERS and name.endswith((".py", ".json", ".yaml")):
            assert (name if folder == "multicrop" else f"multicrop/{folder}/{rest}") in held
    tops = {name.split("/")[0] for name in held}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"multicrop"}
    (entry_points,) = (name for name in held if name.endswith(".dist-info/entry_points.txt"))
    lines = zipfile.ZipFile(wheel).read(entry_points).decode().split("\n")
    assert lines[:2] == ["[console_scripts]", "multicrop = multicrop.__main__:main"]
    assert not any(lines[2:])


@pytest.mark.slow
def test_an_installed_wheel_works_away_from_the_checkout(wheel, tmp_path):
    """Into an environment of its own, which sees the packages of this one."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=120
    )
    programs = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    python = programs / "python"
    site = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True,
                          capture_output=True, text=True).stdout.strip()  # fmt: skip
    outer = [path for path in sys.path if "site-packages" in path]
    (Path(site) / "outer.pth").write_text("\n".join(outer))
    install = ["--python", python, "install", "-q", "--no-deps", wheel]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, timeout=300)
    code = (
        "import ssl, multicrop, multicrop.ssl.head\n"
        f"assert multicrop.__path__ == [{str(Path(site) / 'multicrop')!r}], multicrop.__path__\n"
        "assert hasattr(ssl, 'SSLContext')\n"
        "from multicrop.registry import names\n"
        "assert 'vit' in names('models') and 'shapes' in names('datasets')\n"
        "assert names('ssl.objectives') == ['dino', 'sigreg', 'simclr'] and 'pretrain' in names('commands')\n"
        "from multicrop.augment.autoaugment import AutoAugment; AutoAugment('cifar10')\n"
    )
    subprocess.run([python, "-c", code], check=True, cwd=tmp_path, timeout=120)
    listed = subprocess.run(
        [programs / "multicrop"], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert listed.returncode == 0 and "finetune" in listed.stdout
    help_words = [programs / "multicrop", "pretrain", "--help"]
    done = subprocess.run(help_words, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0 and "--blur_sigma" in done.stdout


@pytest.mark.slow
def test_an_editable_install_reads_every_folder_from_the_checkout(source, tmp_path):
    """What pip would write for `pip install -e .`, asked of setuptools itself: no second build of the files."""
    build = (
        "import os, sys; os.chdir(sys.argv[1])\n"
        "from setuptools import build_meta\n"
        "print(build_meta.build_editable(sys.argv[2]))\n"
    )
    words = [sys.executable, "-c", build, source, tmp_path]
    subprocess.run(words, check=True, capture_output=True, timeout=300)
    wheel = zipfile.ZipFile(next(tmp_path.glob("*.whl")))
    text = "".join(
        wheel.read(name).decode() for name in wheel.namelist() if name.endswith((".py", ".pth"))
    )
    for folder in FOLDERS:
        assert str(source / folder) in text, folder
    assert "train_ssl" not in text and str(source / "tests") not in text

    site = tmp_path / "site"
    wheel.extractall(site)
    code = (
        f"import site; site.addsitedir({str(site)!r})\n"
        "import ssl, multicrop, multicrop.ssl.head\n"
        f"assert multicrop.__file__ == {str(source / 'multicrop' / '__init__.py')!r}, multicrop.__file__\n"
        f"assert multicrop.ssl.head.__file__ == {str(source / 'ssl' / 'head.py')!r}, multicrop.ssl.head.__file__\n"
        "assert hasattr(ssl, 'SSLContext')\n"
        "from multicrop.registry import names\n"
        "assert 'vit' in names('models') and 'shapes' in names('datasets') and 'dino' in names('ssl.objectives')\n"
        "from multicrop.__main__ import main; main(['pretrain', '--help'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0 and "--blur_sigma" in done.stdout, done.stderr
