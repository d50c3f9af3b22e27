"""Images without labels: every image file below one or several folders, however deep. For pretraining only.

--datapath takes several, separated by commas, and patterns: "photos/2024-*,scans,old.zip".
"""

import glob
import os
from collections import Counter
from pathlib import Path

from ._archive import is_archive
from ._console import say_once
from ._data_set import DataSet
from ._folders import Folder, Listing, existing_folder, image_set
from ._images import DEFAULTS, ImageSet, LoadOptions, check_split
from ._inventory import Inventory, listed, say_left_out, take_inventory, unopened_images
from ._places import Root, Several
from ._tree import Node, has_images

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
    trees = [_tree(folder) for folder in _folders(str(root))]
    names = [_image_names(tree) for tree in trees]
    if not any(names):
        unopened = sum((unopened_images(tree) for tree in trees), Counter())
        if unopened:
            raise ValueError(
                f"{root} holds no images that can be read; left out: {listed(unopened)}"
            )
    if len(trees) == 1:
        return Listing(trees[0].folder, names[0], None, ())
    parts: dict[str, tuple[Root, str]] = {}
    for tree, own in zip(trees, names, strict=True):
        parts |= {f"{tree.folder}/{name}": (tree.folder, name) for name in own}
    return Listing(Several(str(root), parts), list(parts), None, ())


def _image_names(tree: Node) -> list[str]:
    """The images of one of the folders; what is left out of it is said where there are any."""
    names = tree.image_names()
    if names:
        say_left_out(tree, None, _why_unused)
    return names


def inventory(root: str | Path) -> Inventory:
    """All files below root, or below each of several."""
    files, used = 0, 0
    left_out: Counter[str] = Counter()
    for folder in _folders(str(root)):
        tree = _tree(folder)
        found = take_inventory(tree, tree.image_names(), _why_unused)
        files, used = files + found.files, used + found.used
        left_out.update(found.left_out)
    return Inventory(files, used, dict(left_out))


def _tree(folder: Folder) -> Node:
    """All below a folder, each image once."""
    node = Node(folder)
    node.read_whole(node)
    return node


def _why_unused(name: str) -> str:
    raise AssertionError(f"{name} is an image and not used")


def recognise(root: Folder) -> str | None:
    """Any folder with an image file somewhere below, or several in one line."""
    if isinstance(root, Path) and root.is_file():
        return None
    try:
        folders = _folders(str(root)) if isinstance(root, Path) else [root]
    except (ValueError, FileNotFoundError):
        return None
    return "images" if any(has_images(Node(folder)) for folder in folders) else None


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
        say_once(f"{folder} lies inside another of the folders: its images are taken once")
    return inside


DATASET = DataSet(
    title="your own images without labels",
    layout="image files in any tree of folders; several as `'a/*,b'`; for pretraining only",
    load=load,
    listing=listing,
    recognise=recognise,
    inventory=inventory,
    labelled=False,
    own=True,
)
