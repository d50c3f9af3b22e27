"""Images without labels: every image file below one or several folders, however deep. For pretraining only.

--datapath takes several, separated by commas, and patterns: "photos/2024-*,scans,old.zip".
"""

import glob
import os
from pathlib import Path

from ._archive import is_archive
from ._data_set import DataSet
from ._folders import Folder, Listing, existing_folder, image_names, image_set
from ._images import DEFAULTS, ImageSet, LoadOptions, check_split
from ._places import Root, Several
from ._rows import say

SEVERAL = ",*?["  # characters of a --datapath that names more than one folder


def load(root: str | Path, split: str, options: LoadOptions = DEFAULTS) -> ImageSet:
    """All images, unlabelled; mean and std are measured. ValueError for the test split, which needs labels."""
    return image_set(listing(root, split), options)


def listing(root: str | Path, split: str) -> Listing:
    """The images, not read yet."""
    check_split(split)
    if split == "test":
        raise ValueError(
            "--dataset images has no labels and so no test split; class folders are --dataset image_folder"
        )
    folders = _folders(str(root))
    if len(folders) == 1:
        return Listing(folders[0], image_names(folders[0]), None, ())
    parts: dict[str, tuple[Root, str]] = {}
    for folder in folders:
        for name in image_names(folder):
            parts[f"{folder}/{name}"] = folder, name
    return Listing(Several(str(root), parts), list(parts), None, ())


def recognise(root: Folder) -> str | None:
    """Any folder with an image file somewhere below, or several in one line."""
    if isinstance(root, Path) and root.is_file():
        return None
    try:
        folders = _folders(str(root)) if isinstance(root, Path) else [root]
    except (ValueError, FileNotFoundError):
        return None
    return "images" if any(map(image_names, folders)) else None


def _folders(paths: str) -> list[Folder]:
    """The folders and archives that a --datapath names, each once. ValueError or FileNotFoundError without one."""
    if Path(paths).expanduser().exists() or not set(paths) & set(SEVERAL):
        return [existing_folder(paths)]
    folders: list[Folder] = []
    for pattern in filter(None, map(str.strip, paths.split(","))):
        folders += map(existing_folder, _matches(os.path.expanduser(pattern)))
    chosen = [folder for folder in folders if not _is_inside(folder, folders)]
    return list({str(folder.resolve()): folder for folder in chosen}.values())


def _matches(pattern: str) -> list[str]:
    """The folders and archives of a pattern, or the path itself where it is none. FileNotFoundError without a match."""
    if Path(pattern).exists():
        return [pattern]
    paths = sorted(glob.glob(pattern, recursive=True))
    places = [path for path in paths if Path(path).is_dir() or is_archive(Path(path))]
    if not places:
        raise FileNotFoundError(f"no folder or archive is called {pattern}")
    return places


def _is_inside(folder: Folder, folders: list[Folder]) -> bool:
    """Whether another of the folders holds this one, and so its images."""
    above = folder.resolve().parents if isinstance(folder, Path) else ()
    inside = any(isinstance(other, Path) and other.resolve() in above for other in folders)
    if inside:
        say(f"{folder} lies inside another of the folders: its images are taken once")
    return inside


DATASET = DataSet(
    title="your own images without labels",
    layout="image files in any tree of folders; several as `'a/*,b'`; for pretraining only",
    load=load,
    listing=listing,
    recognise=recognise,
    labelled=False,
    own=True,
)
