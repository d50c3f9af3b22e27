"""Hashes that tell images and teachers from others, to refuse what a run or a folder of features was not made with."""

import hashlib
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import torch
import torch.nn as nn
from torch import Tensor

from . import ranks

SAMPLE = 64  # images whose pixels are compared
PART, THREADS = (
    1 << 24,
    4,
)  # bytes of which each has a checksum of its own; crc32 lets go of the interpreter


class Images(Protocol):
    """What is read of an ImageSet."""

    @property
    def pixels(self) -> Any: ...  # indexes like uint8 (N, C, H, W)

    @property
    def labels(self) -> Tensor | None: ...

    @property
    def checksums(self) -> Sequence[int] | None: ...  # the CRC-32 of every PART bytes of the pixels

    def __len__(self) -> int: ...


class Teacher(Protocol):
    """What is read of a supervised/teacher.py Teacher."""

    size: int | tuple[int, int]
    batch_norm: Any

    @property
    def backbone(self) -> nn.Module: ...


def image_hashes(images: Images) -> dict[str, str]:
    """Hashes of the pixels of a sample spread over all images, and of the labels where there are any."""
    count = len(images)
    size = min(SAMPLE, count)
    sample = torch.arange(size) * count // size
    hashes = {"pixels": _hash(images.pixels[sample])}
    if images.labels is not None:
        hashes["labels"] = label_hash(images.labels)
    return hashes


def content_hashes(images: Images) -> dict[str, str]:
    """A hash of every pixel; of images that are streamed, of the names and sizes of their files.

    All ranks call it together: of streamed images each looks at the sizes of its share of the files.
    """
    if not isinstance(images.pixels, Tensor):
        return {"files": _file_hash(images.pixels)}
    checksums = images.checksums or _checksums(images.pixels)
    content = repr(list(checksums)).encode()
    return {"all_pixels": hashlib.blake2b(content, digest_size=8).hexdigest()}


def _checksums(pixels: Tensor) -> list[int]:
    content = pixels.reshape(-1).numpy().data
    parts = [content[start : start + PART] for start in range(0, len(content), PART)]
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(zlib.crc32, parts))


def _file_hash(pixels: Any) -> str:
    """Of a datasets/_stream.py Streamed: the same on any number of ranks."""
    start = len(pixels) * ranks.rank() // ranks.world_size()
    stop = len(pixels) * (ranks.rank() + 1) // ranks.world_size()
    sizes = ranks.gather(pixels.file_sizes(start, stop), to=0)
    return ranks.broadcast_object(lambda: pixels.stamp(sizes))


def label_hash(labels: Tensor) -> str:
    """Labels int64 (N,) -> their hash."""
    return _hash(labels)


def dataset_fingerprint(dataset: str, images: Images) -> dict[str, Any]:
    """What tells a data set's images from others."""
    height, width = images.pixels.shape[2:]
    return {
        "dataset": dataset,
        "images": len(images),
        "side": f"{height} x {width} px",
        **image_hashes(images),
    }


def teacher_fingerprint(teacher: Teacher) -> dict[str, Any]:
    """What tells a teacher from others, before it has seen a batch."""
    return {
        "teacher": weights_hash(teacher.backbone),
        "size": f"{teacher.size} px",
        "batch_norm": teacher.batch_norm,
    }


def weights_hash(network: nn.Module) -> str:
    """Hash of everything that a network's state holds."""
    state = network.state_dict()
    return _hash(*[state[name] for name in sorted(state)])


def _hash(*tensors: Tensor) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()
