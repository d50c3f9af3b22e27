"""Where an export may be written: it replaces an earlier export, and nothing else."""

import json
import zipfile
from pathlib import Path

from multicrop.engine.checkpoint import NEWEST

FILES = ("model.safetensors", "config.json", "README.md")  # of a folder for timm
DESCRIPTION = "multicrop.json"  # in a torch program


def check_out(path: Path, to: str) -> None:
    """ValueError where something would be replaced that no export has written."""
    remedy = "give --output another name"
    if to in ("onnx", "torch"):
        if path.is_dir():
            raise ValueError(f"--output {path} is a folder, and --to {to} writes a file: {remedy}")
        if path.exists() and not _is_graph(path):
            raise ValueError(f"--output {path} is there already and is no export: {remedy}")
    elif path.is_dir():
        if (path / NEWEST).exists() or (path / "recipe.yaml").exists():
            raise ValueError(f"--output {path} is a run folder: {remedy}, say {path / to}")
        there = [name for name in FILES if (path / name).exists()]
        if there and not _is_config(path / "config.json"):
            raise ValueError(f"--output {path} holds a {there[0]} that is of no export: {remedy}")
        visible = [name for name in path.iterdir() if not name.name.startswith(".")]
        if visible and not there:  # a fresh clone of a repository may have .git
            raise ValueError(f"--output {path} is a folder with other files in it: {remedy}")
    elif path.exists():
        raise ValueError(f"--output {path} is a file, and --to {to} writes a folder: {remedy}")


def _is_graph(path: Path) -> bool:
    """Whether a file is of --to torch, or of PyTorch's exporter to ONNX, which says so in its first bytes."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(DESCRIPTION) for name in archive.namelist())
    with open(path, "rb") as file:
        return b"pytorch" in file.read(64)


def _is_config(path: Path) -> bool:
    """Whether a file is the description of a network for timm."""
    try:
        return "architecture" in json.loads(path.read_text())
    except (OSError, ValueError, TypeError):
        return False
