"""Near-duplicates: images of one and the same picture, encoded anew, mirrored, shifted by up to a fifth, or all of it.

Candidates are images with alike spectra, which no shift changes (and alike features, where there are some). Of these
the fine structure is compared at the shift where it agrees best, on what both images show. N images of C channels.
"""

from collections import defaultdict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .knn import search

COARSE, FINE = 32, 64  # px to which images are brought, to find the shift and to compare
SHIFT = COARSE // 5  # px, the largest
COARSE_SIMILARITY = 0.65  # below it a pair is not compared finely
THRESHOLD = 0.9
_BATCH = 1024  # pairs compared at once


class Pair(NamedTuple):
    first: int
    second: int
    """Indices of the two images, the lower first."""
    similarity: float
    """Correlation of their fine structure where both show something, 1 for the same pixels."""
    mirrored: bool


Shift = tuple[int, int]  # dy and dx in px


class _Candidate(NamedTuple):
    first: int
    second: int
    mirrored: bool


def near_duplicates(
    pixels: Tensor,
    features: Tensor | None = None,
    threshold: float = THRESHOLD,
    neighbours: int = 10,
) -> list[Pair]:
    """uint8 (N, C, H, W), and features (N, D) -> the pairs of at least this similarity, the most alike first.

    neighbours: candidates of each image and of its mirror image, in spectra and in features. The first three channels
    count, as brightness; images without any structure have no duplicates.
    """
    if len(pixels) < 2:
        return []
    coarse, fine = brightness(pixels, COARSE), brightness(pixels, FINE)
    candidates = sorted(_candidates(coarse, features, neighbours))
    aligned = _aligned(candidates, fine_structure(coarse))
    best: dict[tuple[int, int], Pair] = {}
    for candidate, similarity in _similarities(aligned, fine).items():
        pair = Pair(candidate.first, candidate.second, similarity, candidate.mirrored)
        key = pair[:2]
        if similarity >= threshold and (key not in best or best[key].similarity < similarity):
            best[key] = pair
    return sorted(best.values(), key=lambda pair: (-pair.similarity, pair.first, pair.second))


def groups(pairs: list[Pair]) -> list[list[int]]:
    """The images that pairs connect, directly or through others: each group sorted, in the order of its first image."""
    root: dict[int, int] = {}

    def find(image: int) -> int:
        while root.setdefault(image, image) != image:
            root[image] = image = root[root[image]]
        return image

    for pair in pairs:
        low, high = sorted((find(pair.first), find(pair.second)))
        root[high] = low
    members: dict[int, list[int]] = defaultdict(list)
    for image in sorted(root):
        members[find(image)].append(image)
    return sorted(members.values())


def brightness(pixels: Tensor, side: int) -> Tensor:
    """uint8 (N, C, H, W) -> the mean of the first three channels in 0..1, (N, side, side)."""
    parts = []
    for part in pixels.split(_BATCH):
        grey = part[:, :3].float().mean(1, keepdim=True) / 255
        parts.append(
            F.interpolate(grey, (side, side), mode="bilinear", antialias=True, align_corners=False)
        )
    return torch.cat(parts)[:, 0]


def fine_structure(images: Tensor) -> Tensor:
    """Images (N, h, w) without what is coarser than about a quarter of them; borders count what is inside alone."""
    blurred = images[:, None]
    for _ in range(2):
        for window, padding in (
            ((_WINDOW, 1), (_WINDOW // 2, 0)),
            ((1, _WINDOW), (0, _WINDOW // 2)),
        ):
            blurred = F.avg_pool2d(blurred, window, 1, padding, count_include_pad=False)
    return images - blurred[:, 0]


_WINDOW = 7


def _candidates(coarse: Tensor, features: Tensor | None, neighbours: int) -> set[_Candidate]:
    structure = fine_structure(coarse)
    spectra, mirrored = _spectrum(structure), _spectrum(structure.flip(-1))
    mean = spectra.mean(0)
    spectra, mirrored = spectra - mean, mirrored - mean
    kinds: list[tuple[Tensor, Tensor, tuple[bool, ...]]] = [
        (spectra, spectra, (False,)),
        (spectra, mirrored, (True,)),
    ]
    if features is not None:
        centred = features.float().cpu() - features.float().cpu().mean(0)
        kinds.append((centred, centred, (False, True)))
    found: set[_Candidate] = set()
    count = min(neighbours + 1, len(coarse))  # each is its own nearest
    for bank, asked, flips in kinds:
        _, indices = search(bank, asked, count)
        for image, others in enumerate(indices.tolist()):
            for other in others:
                if other != image:
                    found.update(
                        _Candidate(min(image, other), max(image, other), flip) for flip in flips
                    )
    return found


def _spectrum(structure: Tensor) -> Tensor:
    """(N, S, S) -> roots of the amplitudes of the lower half of the frequencies, (N, frequencies)."""
    side = structure.shape[-1]
    window = torch.hann_window(side, periodic=False)
    centred = structure - structure.mean((1, 2), keepdim=True)
    amplitudes = torch.fft.rfft2(centred * window[:, None] * window).abs()
    amplitudes = torch.fft.fftshift(amplitudes, dim=1)
    quarter = side // 4
    lower = amplitudes[:, side // 2 - quarter : side // 2 + quarter + 1, : quarter + 1]
    return lower.sqrt().flatten(1)


def _aligned(candidates: list[_Candidate], structure: Tensor) -> dict[_Candidate, Shift]:
    """Those that are alike at some shift, and that shift in px of COARSE."""
    found = {}
    for start in range(0, len(candidates), _BATCH):
        batch = candidates[start : start + _BATCH]
        similarity, shifts = _best_shift(*_images_of(batch, structure))
        for row in (similarity >= COARSE_SIMILARITY).nonzero()[:, 0].tolist():
            dy, dx = shifts[row].tolist()
            found[batch[row]] = dy, dx
    return found


def _similarities(aligned: dict[_Candidate, Shift], fine: Tensor) -> dict[_Candidate, float]:
    """Of each the correlation at the best of the fine shifts around its coarse one."""
    scale = FINE // COARSE
    by_shift: dict[Shift, list[_Candidate]] = defaultdict(list)
    for candidate, (dy, dx) in aligned.items():
        for y in range(-scale + 1, scale):
            for x in range(-scale + 1, scale):
                by_shift[scale * dy + y, scale * dx + x].append(candidate)
    best = dict.fromkeys(aligned, -1.0)
    for (dy, dx), candidates in by_shift.items():
        for start in range(0, len(candidates), _BATCH):
            batch = candidates[start : start + _BATCH]
            first, second = _images_of(batch, fine)
            ours, theirs = _shared(first, second, dy, dx)
            values = _correlation(fine_structure(ours), fine_structure(theirs))
            for candidate, value in zip(batch, values.tolist(), strict=True):
                best[candidate] = max(best[candidate], value)
    return best


def _images_of(batch: list[_Candidate], images: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second image of each candidate, (n, S, S) each, the second mirrored where it is so."""
    first, second, mirrored = (torch.tensor(column) for column in zip(*batch, strict=True))
    others = images[second]
    return images[first], torch.where(mirrored[:, None, None], others.flip(-1), others)


def _shared(a: Tensor, b: Tensor, dy: int, dx: int) -> tuple[Tensor, Tensor]:
    """What both (n, S, S) show where a[y + dy, x + dx] lies on b[y, x]."""
    side = a.shape[-1]

    def cut(images: Tensor, y: int, x: int) -> Tensor:
        return images[:, max(0, y) : side + min(0, y), max(0, x) : side + min(0, x)]

    return cut(a, dy, dx), cut(b, -dy, -dx)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """(n, h, w) each -> Pearson's correlation (n,); 0 where an image has no structure."""
    a, b = a.flatten(1), b.flatten(1)
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=_NO_STRUCTURE)


_NO_STRUCTURE = 1e-3  # product of two norms: a deviation of about a hundredth of a level


def _best_shift(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(n, S, S) each -> the largest correlation on the overlap over all shifts (n,), and that shift (n, 2) in px.

    Padfield 2012, Masked object registration in the Fourier domain, eq. 7: all shifts by a few transforms.
    """
    side = a.shape[-1]
    size = (2 * side, 2 * side)

    def transform(images: Tensor) -> Tensor:
        return torch.fft.rfft2(images, s=size)

    def correlate(x: Tensor, y: Tensor) -> Tensor:
        return torch.fft.irfft2(x * y.conj(), s=size)

    mask = transform(torch.ones(1, side, side))
    of_a, of_b = transform(a), transform(b)
    overlap = correlate(mask, mask).clamp(min=1)
    sum_a, sum_b = correlate(of_a, mask), correlate(mask, of_b)
    covariance = correlate(of_a, of_b) - sum_a * sum_b / overlap
    variance_a = correlate(transform(a * a), mask) - sum_a**2 / overlap
    variance_b = correlate(mask, transform(b * b)) - sum_b**2 / overlap
    norms = (variance_a.clamp(min=0) * variance_b.clamp(min=0)).sqrt()
    shifts = torch.arange(-SHIFT, SHIFT + 1)
    near = (covariance / norms.clamp(min=_NO_STRUCTURE))[:, shifts][:, :, shifts].flatten(1)
    similarity, index = near.max(1)
    count = len(shifts)
    return similarity, torch.stack([shifts[index // count], shifts[index % count]], 1)
