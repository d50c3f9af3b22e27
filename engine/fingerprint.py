"""Hashes that tell images and teachers from others, to refuse what a run or a folder of features was not made with."""

import hashlib

import torch
from torch import Tensor

SAMPLE = 64  # images whose pixels are compared


def fingerprint(images) -> dict[str, str]:
    """Of an ImageSet: hashes of the pixels of a sample spread over all, and of the labels where it has any."""
    count = len(images)
    sample = torch.arange(min(SAMPLE, count)) * count // min(SAMPLE, count)
    found = {"pixels": _hash(images.pixels[sample])}
    return found if images.labels is None else {**found, "labels": _hash(images.labels)}


def images_print(dataset: str, images) -> dict:
    """What tells a data set's images, an ImageSet, from others."""
    side = f"{images.pixels.shape[2]} x {images.pixels.shape[3]} px"
    return {"dataset": dataset, "images": len(images), "side": side, **fingerprint(images)}


def teacher_print(teacher) -> dict:
    """What tells a supervised/teacher.py Teacher from others, before it has seen a batch."""
    state = sorted(teacher.backbone.state_dict().items())
    return {
        "teacher": _hash(*(value for _, value in state)), "size": f"{teacher.size} px", "batch_norm": teacher.batch_norm
    }  # fmt: skip


def _hash(*tensors: Tensor) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
