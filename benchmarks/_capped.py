"""A part of an image set as a folder of its own: so many images of each class, as links to the files."""

import contextlib
import os
import shutil
from pathlib import Path

from multicrop import registry


def cap_set(source: Path, target: Path, *, train: int, test: int) -> None:
    """Make target/{train,test}/<class>/ with at most so many images of source; a folder that is there stays as it is.

    source: class folders, or Tiny-ImageNet in its official layout. The choice depends on the files' names alone.
    Files are hard links where the two folders share a disk, else symbolic ones, else copies. ValueError where there
    are more classes than images.
    """
    if target.is_dir():
        return
    unfinished = target.with_name(f"{target.name}.unfinished")  # renamed once it is whole
    shutil.rmtree(unfinished, ignore_errors=True)
    for split, most in (("train", train), ("test", test)):
        files = files_by_class(source, split)
        share = most_per_class([len(found) for found in files.values()], most)
        for name, found in files.items():
            folder = unfinished / split / name
            folder.mkdir(parents=True)
            for index, file in enumerate(every_nth(found, share)):
                # Files of one class may share a name in folders below it.
                link(file, folder / f"{index:05d}_{file.name}")
    unfinished.rename(target)


def files_by_class(source: Path, split: str) -> dict[str, list[Path]]:
    """The files of each class in sorted order, as --dataset image_folder or Tiny-ImageNet lists them."""
    name = "tiny_imagenet" if (source / "wnids.txt").exists() else "image_folder"
    listing = registry.source(name).listing(source, split)
    files: dict[str, list[Path]] = {name: [] for name in listing.classes}
    for file, label in zip(listing.names, listing.labels, strict=True):
        files[listing.classes[label]].append(listing.root / file)
    return {name: sorted(found) for name, found in files.items() if found}


def most_per_class(counts: list[int], most: int) -> int:
    """Of classes with so many images: how many of each to take at most, such that there are at most `most` in all.

    Where all fit, all are taken, in whatever proportion they are. ValueError where there are more classes than `most`.
    """
    if len(counts) > most:
        raise ValueError(f"{most} images are fewer than one for each of {len(counts)} classes")
    share = most // len(counts)
    while share < max(counts) and sum(min(count, share + 1) for count in counts) <= most:
        share += 1
    return share


def every_nth(files: list[Path], count: int) -> list[Path]:
    """At most so many of the files, evenly spaced."""
    count = min(count, len(files))
    return [files[index * len(files) // count] for index in range(count)]


def link(source: Path, target: Path) -> None:
    """A hard link, else a symbolic one, else a copy."""
    for make in (os.link, os.symlink):
        with contextlib.suppress(OSError):
            make(source.resolve(), target)
            return
    shutil.copyfile(source, target)
