"""Chaoyang (Zhu et al. 2021): 4,021 + 2,139 patches of colon slides of 512 px in four classes, with label noise.

Labels are lists in train.json and test.json: [{"name": "train/....JPG", "label": 0}, ...].
"""

import json
from pathlib import Path

from ._archive import Inside
from ._folders import Listing, above_train, by_list, existing_folder, image_set
from ._images import ImageSet, check_split

CLASSES = ("normal", "serrated", "adenocarcinoma", "adenoma")
MEAN = (0.485, 0.456, 0.406)  # ImageNet's, as in the published recipe
STD = (0.229, 0.224, 0.225)
HOME = "https://bupt-ai-cz.github.io/HSA-NRL/"


def load(
    root: str | Path,
    split: str,
    *,
    source_size: int = 64,
    download: bool = False,
    seed: int = 0,
    stream: bool | None = None,
    workers: int | None = None,
) -> ImageSet:
    """root/{train,test}.json and the images they name; root may also be the folder above `chaoyang`.

    FileNotFoundError when a list or an image is missing, ValueError when a list is none.
    """
    return image_set(listing(root, split), source_size, (MEAN, STD), stream, workers)


def recognise(root: Path | Inside) -> str | None:
    return "chaoyang" if (_place(root) / "train.json").exists() else None


def _place(root: str | Path | Inside) -> Path | Inside:
    root = above_train(existing_folder(root))
    return root / "chaoyang" if (root / "chaoyang").is_dir() else root


def listing(root: str | Path, split: str) -> Listing:
    """The images of a split, not read yet."""
    check_split(split)
    place = _place(root)
    file = place / f"{split}.json"
    if not file.exists():
        raise FileNotFoundError(
            f"there is no {file}, the list of Chaoyang's {split} images; it comes with them: {HOME}"
        )
    pairs = _pairs(file)
    return by_list(
        place, [name for name, _ in pairs], [label for _, label in pairs], CLASSES, str(file)
    )


def _pairs(file) -> list[tuple[str, int]]:
    try:
        pairs = [(row["name"], row["label"]) for row in json.loads(file.read_text())]
    except (ValueError, KeyError, TypeError):
        pairs = None
    if not pairs or not all(
        isinstance(n, str) and type(k) is int and k in range(len(CLASSES)) for n, k in pairs
    ):
        raise ValueError(f'{file} is not a list of {{"name": file, "label": 0..3}}: fetch it again')
    return pairs
