"""Published files of corrupted test images: CIFAR-10-C's and CIFAR-100-C's arrays, Tiny-ImageNet-C's folders.

CIFAR-10-C/labels.npy, fog.npy, ...        uint8 (5 n, H, W, C): n images at severity 1, then at 2, ...
Tiny-ImageNet-C/fog/3/<class>/*.JPEG       image files
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ._folders import by_class, class_names, image_set
from ._images import ImageSet, LoadOptions

SEVERITIES = 5
LABELS = "labels.npy"


class CorruptedArrays:
    """CIFAR-10-C's layout."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.names = {path.stem for path in folder.glob("*.npy")} - {Path(LABELS).stem}

    def load(self, name: str, severity: int, clean: ImageSet, options: LoadOptions) -> ImageSet:
        """The images of one corruption and severity, with classes, mean and deviation of the `clean` ones."""
        path = self.folder / f"{name}.npy"
        pixels = read_array(path)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) % SEVERITIES:
            raise ValueError(
                f"{path} holds {pixels.dtype} {pixels.shape}; expected is uint8 (5 n, H, W, C), n images a severity"
            )
        own, other = pixels.shape[3], clean.pixels.shape[1]
        if own != other:
            raise ValueError(f"{path} has {own} channels, and the clean test images have {other}")
        count = len(pixels) // SEVERITIES
        part = slice((severity - 1) * count, severity * count)
        labels = self._labels(len(pixels), clean)[part]
        images = torch.from_numpy(np.ascontiguousarray(pixels[part].transpose(0, 3, 1, 2)))
        return replace(clean, pixels=images, labels=labels, file=None, checksums=None)

    def _labels(self, images: int, clean: ImageSet) -> torch.Tensor:
        """int64 (images,); a file of one severity's labels stands for all."""
        path = self.folder / LABELS
        labels = read_array(path).astype(np.int64)
        if labels.ndim == 1 and len(labels) * SEVERITIES == images:
            labels = np.tile(labels, SEVERITIES)
        if labels.shape != (images,):
            raise ValueError(f"{path} holds {labels.shape} labels for {images} images")
        assert clean.labels is not None
        found, expected = np.unique(labels), clean.labels.unique().numpy()
        if not np.array_equal(found, expected):
            raise ValueError(
                f"{path} has labels of {len(found)} classes, {found.min()} to {found.max()}, and the clean test images "
                f"are of {len(expected)}, {expected.min()} to {expected.max()}: are these files of another data set?"
            )
        return torch.from_numpy(labels)


class CorruptedFolders:
    """Tiny-ImageNet-C's layout."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.names = {name for name in class_names(folder) if "1" in class_names(folder / name)}

    def load(self, name: str, severity: int, clean: ImageSet, options: LoadOptions) -> ImageSet:
        """The images of one corruption and severity, with classes, mean and deviation of the `clean` ones.

        They are decoded when they are asked for: the cache would hold 75 copies of the test set.
        """
        folder = self.folder / name / str(severity)
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}")
        listing = by_class(folder, clean.classes)
        streamed = replace(options, stream=True)
        return image_set(listing, streamed, (clean.mean, clean.std), trains=False)


def open_corrupted(folder: str | Path) -> CorruptedArrays | CorruptedFolders:
    """What a folder of published files holds. FileNotFoundError or ValueError where it is none."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(
            f"there is no folder {path}: unpack CIFAR-10-C.tar, CIFAR-100-C.tar or Tiny-ImageNet-C.tar"
        )
    if (path / LABELS).is_file():
        return CorruptedArrays(path)
    folders = CorruptedFolders(path)
    if not folders.names:
        raise ValueError(
            f"{path} has neither {LABELS} beside <corruption>.npy nor <corruption>/<severity>/<class>/ folders"
        )
    return folders


def read_array(path: Path) -> np.ndarray:
    """An array over its file. FileNotFoundError or ValueError in one line."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged or no array of numpy: {error}") from None
