"""Tiles of a report: images with a few words under them."""

from pathlib import PurePath

from multicrop.commands._report_images import SplitImages
from multicrop.pictures.page import Tile
from multicrop.pictures.thumbnails import thumbnail

NAME = 24  # characters of a file's name that stand under its image


def tile(split: SplitImages, image: int, text: str | None = None) -> Tile:
    """text: what stands under it (None: its class)."""
    name, class_name = split.names[image], split.class_of(image)
    title = f"{name}, {class_name}" if class_name else name
    return Tile(thumbnail(split.pixels[image]), title, class_name if text is None else text)


def under(name: str, *words: str) -> str:
    """The end of an image's name, and words, for under a tile."""
    end = PurePath(name).name
    return ", ".join(filter(None, [end if len(end) <= NAME else f"...{end[3 - NAME :]}", *words]))
