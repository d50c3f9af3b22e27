"""Randomness as a function of a key such as (seed, "crops", step), so that no random state has to be saved."""

import zlib

import numpy as np
import torch


def generator(*key: int | str) -> torch.Generator:
    """A fresh CPU generator for a key; equal keys give equal numbers on every machine and every rank."""
    return torch.Generator().manual_seed(_mix(key))


def reseed(*key: int | str) -> None:
    """Seed torch's own generators (all devices): dropout, drop path and weight initialisation draw from them."""
    torch.manual_seed(_mix(key))


def _mix(key: tuple) -> int:
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    # torch takes 63 bits safely
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)
