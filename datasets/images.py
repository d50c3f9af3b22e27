"""Images without labels: every image file below a folder, however deep. For pretraining only."""

from pathlib import Path

from ._data_set import DataSet
from ._folders import Folder, Listing, existing_folder, image_set
from ._images import DEFAULTS, ImageSet, LoadOptions, check_split
from ._inventory import Inventory, listed, say_left_out, take_inventory, unopened_images
from ._tree import Node, has_images


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
    node = _tree(root)
    names = node.image_names()
    unopened = unopened_images(node)
    if not names and unopened:
        raise ValueError(f"{root} holds no images that can be read; left out: {listed(unopened)}")
    say_left_out(node, names, _why_unused)
    return Listing(node.folder, names, None, ())


def inventory(root: str | Path) -> Inventory:
    """All files below root."""
    node = _tree(root)
    return take_inventory(node, node.image_names(), _why_unused)


def _tree(root: str | Path) -> Node:
    """All below root, each image once."""
    node = Node(existing_folder(root))
    node.scopes.append(node.real)
    return node


def _why_unused(name: str) -> str:
    raise AssertionError(f"{name} is an image and not used")


def recognise(root: Folder) -> str | None:
    """Any folder with an image file somewhere below."""
    return "images" if has_images(Node(root)) else None


DATASET = DataSet(
    title="your own images without labels",
    layout="image files in any tree of folders; for pretraining only",
    load=load,
    listing=listing,
    recognise=recognise,
    inventory=inventory,
    labelled=False,
    own=True,
)
