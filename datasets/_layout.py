"""Where the splits and the classes of a folder are: single folders around them are opened, usual names are known."""

from dataclasses import dataclass
from pathlib import Path

from ._archive import Folder
from ._folders import NoTrainingImages
from ._split_names import (
    TEST,
    TRAIN,
    VALIDATION,
    is_split_name,
    is_unlabelled_name,
    split_name,
)
from ._tree import Node, holds_only_runs


@dataclass(frozen=True)
class Layout:
    """What a folder of class folders holds."""

    top: Node
    """The folder that was given, or the one above where that is the training split."""
    splits: dict[str, Node]
    """The folder of class folders of "train", and of "test" and "val" where there are such."""
    opened: tuple[Node, ...] = ()
    """Those that are the only folder in another one, which says nothing."""


def find_layout(root: Folder) -> Layout:
    """NoTrainingImages where there is a test split and no training split."""
    top = Node(_above_train(root))
    inner = unwrapped(top)
    found = _find_splits(inner)
    if "train" not in found:
        if found:
            name = found["test"].folder.name
            raise NoTrainingImages(
                f"{inner.folder} has {name}/ with class folders but no train/ beside it: call the folder of the "
                f"training images train, or, if {name} is a class, call it otherwise"
            )
        found = {"train": inner}
    splits = {"train": unwrapped(found["train"])}
    classes = set(class_folders(splits["train"]))
    for name, node in found.items():
        splits.setdefault(name, unwrapped(node, classes))
    top.read_whole(*splits.values())
    opened = [splits[name] for name in splits if splits[name] is not found[name]]
    if inner is not top:
        opened.insert(0, inner)
    return Layout(top, splits, tuple(opened))


def find_unsplit(root: Folder) -> Layout | None:
    """The only folder of class folders, as the split "test"; None where training and test split are both there."""
    top = Node(_above_train(root))
    inner = unwrapped(top)
    found = _find_splits(inner)
    if {"train", "test"} <= set(found):
        return None
    only = unwrapped(found.get("test") or found.get("train") or inner)
    top.read_whole(only)
    return Layout(top, {"test": only})


def _find_splits(node: Node) -> dict[str, Node]:
    """The folders "train", "test" and "val"; a validation folder without a test folder is the test split."""
    found = {
        "train": _split(node, TRAIN),
        "test": _split(node, TEST) or _split(node, VALIDATION),
        "val": _split(node, VALIDATION) if _split(node, TEST) else None,
    }
    return {name: split for name, split in found.items() if split is not None}


def unwrapped(node: Node, keep: set[str] | frozenset[str] = frozenset()) -> Node:
    """The folder inside that holds the splits or classes: single folders of folders are opened, except those of `keep`.

    One that is called like a split may be the only split.
    """
    while True:
        inner = class_folders(node)
        if len(inner) != 1:
            return node
        ((name, only),) = inner.items()
        another_split = (
            is_split_name(name) and name != node.folder.name
        )  # seg_train/seg_train/cat is one
        if name in keep or another_split or not holds_classes(only):
            return node
        node = only


def holds_classes(node: Node) -> bool:
    """Whether a folder is above classes and none itself: most of its images are in folders inside."""
    inside = class_folders(node)
    if not node.images:
        return bool(inside)
    return sum(len(child.image_names()) for child in inside.values()) > len(node.images)


def class_folders(node: Node) -> dict[str, Node]:
    """The folders inside that may be classes, in the order of labels: not those without labels, not runs/."""
    return {
        name: child
        for name, child in sorted(node.folders.items())
        if not is_unlabelled_name(name) and not holds_only_runs(child)
    }


def _above_train(root: Folder) -> Folder:
    """The data set's root when its training folder was given, as the published pretraining commands do."""
    given = Node(root)
    if split_name(root.name) not in TRAIN or not given.content.folders or _split(given, TRAIN):
        return root
    above = Node(root.parent)
    train = _split(above, TRAIN)
    if train is None or train.folder.name != root.name:
        return root
    return root.parent if _split(above, (*TEST, *VALIDATION)) else root


def _split(node: Node, names: tuple[str, ...]) -> Node | None:
    """The folder inside that has the first of the names, in any case, and class folders of its own."""
    for wanted in names:
        folders = node.content.folders
        spellings = [name for name in folders if split_name(name) == wanted]
        # As it is written above first, where both are there
        for name in sorted(spellings, key=lambda spelling: (spelling != wanted, spelling)):
            if any(not is_unlabelled_name(inner) for inner in folders[name].content.folders):
                return folders[name]
    return None


def below(top: Node, node: Node) -> str:
    """The path from one folder to another below it, with / at its end; "" to itself."""
    path = str(node.folder).removeprefix(str(top.folder)).strip("/\\")
    return Path(path).as_posix() + "/" if path else ""
