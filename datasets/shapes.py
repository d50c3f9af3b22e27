"""shapes: a procedural set of ten shapes in random pose, colour, texture and clutter; made in seconds, no download.

It is built so that neither pixels nor colours tell the classes apart. The outline is the only property that all images
of a class share; position, rotation, scale, colours, texture and polarity (light on dark or dark on light) are drawn
anew for every image. Background, clutter and lighting vary over the image, so that two crops of one image share its
shape more than anything else. Distances are in units of half the image's side; y points down.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ._images import SPLITS, ImageSet, check_split

# How hard the set is.
RADIUS = (0.50, 0.80)  # of the shape's circumscribed circle, in half sides: its diameter is 50-80 % of the side
OFF_CENTRE = 0.40  # largest shift of the centre along each axis, in half sides
TILT = math.pi  # largest rotation to either side
STRETCH = 0.15  # largest relative stretch along one axis (and shrink along the other)
CONTRAST = (0.30, 0.60)  # difference of lightness between shape and background, of 1
HUES = 0.16  # how far colours are from grey
GRADIENT = 0.15  # amplitude of the background's smooth change of colour
TEXTURE = 0.10  # largest amplitude of stripes, checks and blotches, in the shape and behind it
NOISE = 0.02  # standard deviation of the noise of each pixel
CLUTTER = 5  # most small discs and bars per image
CLUTTER_RADIUS = (0.05, 0.13)  # in half sides

CHUNK = 500  # images drawn together, from a random stream of their own: more images never change earlier ones


def load(
    root: str | Path,
    split: str,
    *,
    source_size: int = 64,
    download: bool = False,
    seed: int = 0,
    train_images: int = 5000,
    test_images: int = 1000,
    image_size: int = 32,
) -> ImageSet:
    """Draw the split; the same arguments give the same images. root, source_size and download have no meaning here.

    Train and test, and different seeds, are drawn from different random streams.
    """
    check_split(split)
    count = train_images if split == "train" else test_images
    if count < 1 or image_size < 8:
        raise ValueError(f"shapes needs at least 1 image of at least 8 px, not {count} of {image_size}")
    chunks = []
    for start in range(0, count, CHUNK):
        stream = np.random.default_rng([seed, SPLITS.index(split), start // CHUNK])
        chunks.append(_draw(stream, image_size, min(CHUNK, count - start)))
    pixels, labels = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*chunks, strict=True))
    return ImageSet(pixels, labels, CLASSES, MEAN, STD)


def _draw(stream: np.random.Generator, size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` images of a chunk: uint8 (count, 3, S, S) and int64 (count,)."""
    labels = stream.permutation(np.arange(CHUNK) % len(CLASSES))
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    x, y = axis[None, None, :], axis[None, :, None]
    behind, front = _colours(stream)
    image = behind + _field(stream, size, 3, GRADIENT) + _texture(stream, x, y) * _field(stream, size, 1, 1.0)
    for _ in range(CLUTTER):
        image = _over(image, _colours(stream)[0], _clutter(stream, x, y) * _chance(stream, 0.6))
    image = _over(image, front + _texture(stream, x, y), _shape(stream, labels, x, y)[:, None])
    image += stream.normal(0, NOISE, image.shape).astype(np.float32)
    return (image[:count].clip(0, 1) * 255 + 0.5).astype(np.uint8), labels[:count]


def _over(image: np.ndarray, paint: np.ndarray, cover: np.ndarray) -> np.ndarray:
    return image + (paint - image) * cover


def _colours(stream: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two colours per image (CHUNK, 3, 1, 1), apart in lightness; either may be the lighter one."""
    contrast = _between(stream, *CONTRAST)
    middle = 0.5 + _between(stream, -1, 1) * (0.4 - contrast / 2)
    step = np.where(_chance(stream, 0.5), contrast, -contrast) / 2
    return middle - step + _hue(stream), middle + step + _hue(stream)


def _hue(stream: np.random.Generator) -> np.ndarray:
    """A colour of lightness zero, to be added to a grey: (CHUNK, 3, 1, 1)."""
    tint = stream.uniform(-HUES, HUES, (CHUNK, 3, 1, 1)).astype(np.float32)
    return tint - tint.mean(1, keepdims=True)


def _field(stream: np.random.Generator, size: int, channels: int, amplitude: float) -> np.ndarray:
    """Smooth random values over the image, (CHUNK, channels, S, S): a 4 x 4 grid, cosine-interpolated."""
    knots = stream.uniform(-amplitude, amplitude, (CHUNK, channels, 4, 4)).astype(np.float32)
    place = np.linspace(0, 3, size, dtype=np.float32)[:, None] - np.arange(4, dtype=np.float32)
    weights = (1 + np.cos(np.pi * place.clip(-1, 1))) / 2  # (S, 4); each row sums to 1
    return weights @ knots @ weights.T


def _texture(stream: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Stripes, checks or blotches of random direction and frequency, (CHUNK, 1, S, S)."""
    angle, frequency = _between(stream, 0, math.pi), _between(stream, 4, 14)
    u, v = (part[:, 0] for part in _turned(x[:, None], y[:, None], angle))
    stripes = np.sin(frequency[:, 0] * u + _between(stream, 0, 2 * math.pi)[:, 0])
    checks = stripes * np.sin(frequency[:, 0] * v)
    blotches = _field(stream, x.shape[-1], 1, 1.5)[:, 0]
    kind = stream.integers(3, size=(CHUNK, 1, 1))
    return (np.choose(kind, (stripes, checks, blotches)) * _between(stream, 0, TEXTURE)[:, 0])[:, None]


def _clutter(stream: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coverage of one small disc or bar per image, anywhere: (CHUNK, 1, S, S)."""
    dx, dy = x - _between(stream, -1, 1)[:, 0], y - _between(stream, -1, 1)[:, 0]
    u, v = _turned(dx, dy, _between(stream, 0, math.pi)[:, 0])
    length = (_between(stream, -0.4, 0.6).clip(0))[:, 0]  # 0 is a disc
    along = u - u.clip(-length, length)
    return _cover(np.hypot(along, v) - _between(stream, *CLUTTER_RADIUS)[:, 0], 2 / x.shape[-1])[:, None]


def _shape(stream: np.random.Generator, labels: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coverage of each image's shape in a pose of its own: (CHUNK, S, S)."""
    radius, stretch = _between(stream, *RADIUS)[:, 0], 1 + _between(stream, -STRETCH, STRETCH)[:, 0]
    room = np.minimum(OFF_CENTRE, 1 - radius)
    dx, dy = x - _between(stream, -1, 1)[:, 0] * room, y - _between(stream, -1, 1)[:, 0] * room
    u, v = _turned(dx / radius, dy / radius, _between(stream, -TILT, TILT)[:, 0])
    u, v = u * stretch, v / stretch
    distance = np.empty(u.shape, np.float32)
    for label, outline in enumerate(OUTLINES.values()):
        mine = labels == label
        distance[mine] = outline(u[mine], v[mine])
    return _cover(distance * radius, 2 / x.shape[-1])


def _cover(distance: np.ndarray, pixel: float) -> np.ndarray:
    """The share of each pixel inside an edge: 1 inside, 0 outside, a ramp of one pixel between."""
    return (0.5 - distance / pixel).clip(0, 1)


def _turned(x: np.ndarray, y: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _between(stream: np.random.Generator, low: float, high: float) -> np.ndarray:
    return stream.uniform(low, high, (CHUNK, 1, 1, 1)).astype(np.float32)


def _chance(stream: np.random.Generator, probability: float) -> np.ndarray:
    return stream.random((CHUNK, 1, 1, 1)) < probability


def _polygon(corners: list[tuple[float, float]]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Signed distance to a closed polygon, negative inside."""

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        nearest, inside = np.full(x.shape, np.inf, np.float32), np.zeros(x.shape, bool)
        for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
            ex, ey, px, py = bx - ax, by - ay, x - ax, y - ay
            along = ((px * ex + py * ey) / (ex * ex + ey * ey)).clip(0, 1)
            nearest = np.minimum(nearest, (px - ex * along) ** 2 + (py - ey * along) ** 2)
            if ey:  # a ray to the right crosses this edge
                inside ^= ((ay > y) != (by > y)) & (px < ex * py / ey)
        return np.where(inside, -1, 1) * np.sqrt(nearest)

    return distance


def _at(radius: float, turn: float) -> tuple[float, float]:
    return radius * math.sin(2 * math.pi * turn), -radius * math.cos(2 * math.pi * turn)


def _plus(half: float, reach: float) -> list[tuple[float, float]]:
    quarter = [(half, -half), (reach, -half), (reach, half)]  # then turned by 90 degrees three times
    return [((x, y), (-y, x), (-x, -y), (y, -x))[turn] for turn in range(4) for x, y in quarter]


def _heart(t: float) -> tuple[float, float]:
    y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
    return 0.83 * math.sin(t) ** 3, -0.83 * (y + 0.7) / 16


def _disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 0.69


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.66) - 0.18


def _crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(x - 0.15, y) - 0.93, 0.7 - np.hypot(x - 0.7, y))


OUTLINES = {  # signed distances, all of the same area (1.4 to 1.6) about the same centre, so that size says little
    "arrow": _polygon([(-0.95, -0.3), (0.05, -0.3), (0.05, -0.85), (1, 0), (0.05, 0.85), (0.05, 0.3), (-0.95, 0.3)]),
    "corner": _polygon([(-0.6, -0.9), (0.0, -0.9), (0.0, 0.0), (0.9, 0.0), (0.9, 0.6), (-0.6, 0.6)]),
    "crescent": _crescent,
    "cross": _polygon(_plus(0.24, 0.9)),
    "disc": _disc,
    "heart": _polygon([_heart(2 * math.pi * i / 28) for i in range(28)]),
    "ring": _ring,
    "square": _polygon([(-0.61, -0.61), (0.61, -0.61), (0.61, 0.61), (-0.61, 0.61)]),
    "star": _polygon([_at(0.5 if i % 2 else 1, i / 10) for i in range(10)]),
    "triangle": _polygon([_at(1.07, i / 3) for i in range(3)]),
}
CLASSES = tuple(OUTLINES)
MEAN = (0.5, 0.5, 0.5)  # by symmetry
STD = (0.264, 0.264, 0.264)  # measured
