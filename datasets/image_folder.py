"""Images in class folders: root/train/<class>/ and root/{test,val,valid}/<class>/, or just root/<class>/."""

import os
import zlib
from dataclasses import replace
from pathlib import Path

from ._console import say_once
from ._data_set import DataSet
from ._folders import (
    Folder,
    Listing,
    NoTrainingImages,
    existing_folder,
    image_set,
    of_classes,
)
from ._images import DEFAULTS, SPLITS, ImageSet, LoadOptions, check_split, like
from ._inventory import Inventory, listed, say_left_out, take_inventory, unopened_images
from ._layout import (
    Layout,
    below,
    class_folders,
    find_layout,
    find_unsplit,
    holds_classes,
)
from ._split_names import annotated, is_split_name, is_unlabelled_name
from ._tree import Node

WITH_VALIDATION = (*SPLITS, "val")


def load(root: str | Path, split: str, options: LoadOptions = DEFAULTS) -> ImageSet:
    """The split "train", "test", or "val" where has_validation(root) says so.

    Mean and std are measured on the training pixels. Without a test folder a tenth of each class is the test split.
    That tenth depends on the file names only. FileNotFoundError or ValueError when there is nothing to read.
    """
    check_split(split, WITH_VALIDATION)
    listings = _listings(existing_folder(root))
    wanted = _one_of(listings, split, root)
    train = image_set(listings["train"], options)
    if split == "train":
        return train
    constants = train.mean, train.std
    return image_set(wanted, like(options, train), constants, trains=False)


def listing(root: str | Path, split: str) -> Listing:
    """The images of a split, not read yet."""
    check_split(split, WITH_VALIDATION)
    return _one_of(_listings(existing_folder(root)), split, root)


def has_validation(root: str | Path) -> bool:
    """Whether there is a split "val": a public validation folder beside the test folder."""
    return "val" in find_layout(existing_folder(root)).splits


def unsplit(root: str | Path) -> Listing | None:
    """All images of class folders, or of a test folder alone; None where training and test folders lie side by side.

    The classes are the folders that are there, also those that hold no image.
    """
    layout = find_unsplit(existing_folder(root))
    if layout is None:
        return None
    whole = _whole(layout.splits["test"])
    say_left_out(layout.top, _InClassFolders(layout), _Reasons(layout))
    return whole


def _whole(node: Node) -> Listing:
    files = _files(node)
    return of_classes(node.folder, files, tuple(files))


def recognise(root: Folder) -> str | None:
    """Any folder whose images are in folders, most of them."""
    if isinstance(root, Path) and not root.is_dir():
        return None
    return "image_folder" if holds_classes(Node(root)) else None


def inventory(root: str | Path) -> Inventory:
    """All files below root."""
    folder = existing_folder(root)
    try:
        layout = find_layout(folder)
        listings = _split_listings(layout)
    except NoTrainingImages:
        alone = find_unsplit(folder)
        assert alone is not None
        layout = alone
        listings = {"test": _whole(layout.splits["test"])}
    return take_inventory(layout.top, _used(layout, listings), _Reasons(layout))


def _one_of(listings: dict[str, Listing], split: str, root: str | Path) -> Listing:
    if split not in listings:
        raise FileNotFoundError(f"{root} has no validation folder beside train and test folders")
    return listings[split]


def _listings(root: Folder) -> dict[str, Listing]:
    """The images of each split, by the layout that root has; what is peculiar about it is said."""
    layout = find_layout(root)
    _say_where(root, layout)
    try:
        listings = _split_listings(layout)
    except ValueError as error:
        line = f"{error}{_hint_of_tables(layout)}"
        unopened = unopened_images(layout.top)
        if unopened:
            line += f"; left out: {listed(unopened)}"
        raise ValueError(line) from None
    _warn_of_classes(listings["train"], _hint_of_tables(layout))
    say_left_out(layout.top, _InClassFolders(layout), _Reasons(layout))
    return listings if "test" in listings else hold_out(listings["train"])


def _hint_of_tables(layout: Layout) -> str:
    """What to say of tables above the images of folders that are hardly classes: their labels may be in there."""
    train = layout.splits.get("train") or layout.splits["test"]
    folders = [layout.top, *layout.splits.values(), *class_folders(train).values()]
    tables = [below(layout.top, node) + name for node in folders for name in node.tables]
    if not tables:
        return ""
    return f"; labels in a table ({', '.join(dict.fromkeys(tables[:2]))}) are --dataset table"


def _split_listings(layout: Layout) -> dict[str, Listing]:
    train = of_classes(layout.splits["train"].folder, _files(layout.splits["train"]))
    listings = {"train": train}
    for split, node in layout.splits.items():
        if split != "train":
            listings[split] = of_classes(node.folder, _files(node), train.classes)
    return listings


def _files(node: Node) -> dict[str, list[str]]:
    """Of each class the images' names, relative to the folder of class folders."""
    return {
        name: [f"{name}/{file}" for file in child.image_names()]
        for name, child in class_folders(node).items()
    }


def _used(layout: Layout, listings: dict[str, Listing]) -> list[str]:
    """The names of all splits' images, relative to the top."""
    names: list[str] = []
    for split, images in listings.items():
        prefix = below(layout.top, layout.splits[split])
        names += [prefix + name for name in images.names]
    return names


class _InClassFolders:
    """Has the names that `_used` gives, and holds their folders only."""

    def __init__(self, layout: Layout):
        self.classes = {
            below(layout.top, node): set(class_folders(node)) for node in layout.splits.values()
        }
        self._folders: dict[str, bool] = {}  # those that were asked for

    def __contains__(self, name: object) -> bool:
        folder = str(name).rpartition("/")[0]
        if folder not in self._folders:
            self._folders[folder] = any(
                f"{folder}/".startswith(prefix) and folder[len(prefix) :].split("/")[0] in classes
                for prefix, classes in self.classes.items()
            )
        return self._folders[folder]


class _Reasons:
    """Why an image below the top of a layout, by its name, is in no split."""

    def __init__(self, layout: Layout):
        self.prefixes = [below(layout.top, node) for node in layout.splits.values()]

    def __call__(self, name: str) -> str:
        parts = name.split("/")
        folders = parts[:-1]
        unlabelled = [folder for folder in folders if is_unlabelled_name(folder)]
        if unlabelled:
            return f"without labels in {unlabelled[0]}/ (pretraining takes them: --dataset images)"
        for prefix in self.prefixes:
            if name.startswith(prefix):
                return "outside class folders"
        if folders and not any(prefix.startswith(f"{folders[0]}/") for prefix in self.prefixes):
            return f"in {folders[0]}/, which is no split with class folders"
        return "outside class folders"


def _say_where(root: Folder, layout: Layout) -> None:
    """Where the images are read from, unless it is plain."""
    folders = {split: below(layout.top, node) for split, node in layout.splits.items()}
    usual = [folder.lower() == f"{split}/" for split, folder in folders.items()]
    if len(folders) > 1 and not all(usual):
        where = ", ".join(f"{split} from {folder}" for split, folder in folders.items())
        say_once(f"{layout.top.folder}: {where}")
    elif layout.opened:
        say_once(f"{root} holds one folder around the others: opened {layout.opened[-1].folder}")


def _warn_of_classes(train: Listing, hint: str) -> None:
    """Classes that are probably none. ValueError where all are called like splits and `hint` tells of a table.

    That is Hugging Face's layout, or Kaggle's: nobody wants to tell its splits apart.
    """
    splits = [name for name in train.classes if is_split_name(name)]
    if hint and len(splits) == len(train.classes):
        raise ValueError(f"{train.root} has no class folders in {' and '.join(splits)}{hint}")
    if len(train.classes) == 1:
        say_once(
            f"warning: {train.root} has one class, {train.classes[0]}: is it the folder of one folder per class? "
            f"images without classes are --dataset images{hint}"
        )
    if splits:
        say_once(
            f"warning: {train.root} has a class called {splits[0]}, like a split: "
            f"splits are folders train and test with a folder per class in each{hint}"
        )
    pair = annotated(train.classes)
    if pair:
        images, others = pair
        say_once(
            f"warning: {train.root} has classes called {images} and {others}, like the folders of images and their "
            f"annotations: such images have no classes, and pretraining takes them by --dataset images --datapath "
            f"{train.root}/{images}{hint}"
        )


def hold_out(whole: Listing) -> dict[str, Listing]:
    """Split each class by a hash of its file names: a tenth, and at least one of two images, is the test split."""
    held_out = _held_out(whole)
    if not held_out:
        raise ValueError(
            f"{whole.root} has one image per class; a test split needs at least two of some class"
        )
    say_once(
        f"{whole.root} has no test split: {len(held_out)} of {len(whole.names)} images are held out as the test split"
    )
    train = [index for index in range(len(whole.names)) if index not in held_out]
    test = sorted(held_out)
    return {"train": _part(whole, train, "train"), "test": _part(whole, test, "test")}


def _held_out(whole: Listing) -> set[int]:
    """Indices of the images of the test split."""
    assert whole.labels is not None
    of_class: list[list[int]] = [[] for _ in whole.classes]
    for index, label in enumerate(whole.labels):
        of_class[label].append(index)
    held_out: set[int] = set()
    for indices in of_class:
        indices.sort(key=lambda index: _hash_and_name(whole.names[index]))
        count = len(indices) // 10
        if len(indices) > 1:
            count = max(count, 1)
        held_out.update(indices[:count])
    return held_out


def _hash_and_name(name: str) -> tuple[int, str]:
    """The order in which images of a class are held out."""
    return zlib.crc32(os.fsencode(name)), name


def _part(whole: Listing, indices: list[int], part: str) -> Listing:
    """Some of the images, as a split."""
    assert whole.labels is not None
    names = [whole.names[index] for index in indices]
    labels = [whole.labels[index] for index in indices]
    return replace(whole, names=names, labels=labels, part=part)


DATASET = DataSet(
    title="your own images in class folders",
    layout="`{train,test}/<class>/` (or `val`, `valid`), or `<class>/`: then a tenth of each class is the test split",
    load=load,
    listing=listing,
    recognise=recognise,
    validation=has_validation,
    unsplit=unsplit,
    inventory=inventory,
    own=True,
)
