"""shapes: a procedural set of ten shapes with random pose, colour, texture and clutter; made in seconds, no download.

An image shows one class nine times, each time in a pose of its own, some of them light and some dark. So raw pixels
are poor neighbours, while every crop of an image, local ones too, shows the same class. All else that the crops of an
image share (its mean lightness and colour, how many shapes are light) is nearly the same for all images: whatever
varies there is an easier answer to self-distillation than the outline is, and is then learnt in its place. The outlines
cover different areas: without that, a small network has nothing to start from and its targets become uniform. Distances
are in units of half the image's, or half a cell's, side; y points down.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ._images import SPLITS, ImageSet, check_split

# How hard the set is.
GRID = 3  # shapes of one class per image: GRID x GRID, each in a cell of its own
RADIUS = (0.75, 1.00)  # of a shape's circumscribed circle, in half sides of its cell
OFF_CENTRE = 0.50  # largest shift of a shape along each axis, in half sides of its cell
TILT = 0.3  # largest rotation to either side, in radians; less of it is easier, also for raw pixels
STRETCH = 0.15  # largest relative stretch along one axis (and shrink along the other)
PAINTS = (
    (0.46, 0.40, 0.32),
    (-0.38, -0.40, -0.44),
)  # differences to the background, in turn over an image's shapes
CONTRAST = (0.9, 1.1)  # factor of the paints
MIDDLE = 0.02  # how far the background's lightness is from 1/2
HUES = 0.02  # how far the background and the paints are from their colour
GRADIENT = 0.03  # amplitude of the background's smooth change of colour
TEXTURE = 0.03  # largest amplitude of stripes, checks and blotches, in the shapes and behind them
NOISE = 0.04  # standard deviation of the noise of each pixel
CLUTTER = 1  # most small discs and bars per image
CLUTTER_RADIUS = (0.04, 0.09)  # in half sides

CHUNK = 500  # images drawn together, from a random stream of their own: more images never change earlier ones


def load(
    root: str | Path,
    split: str,
    *,
    source_size: int = 64,
    download: bool = False,
    seed: int = 0,
    stream: bool | None = None,
    workers: int | None = None,
    train_images: int = 5000,
    test_images: int = 1000,
    image_size: int = 32,
) -> ImageSet:
    """Draw the split; the same arguments give the same images. What concerns files has no meaning here.

    Train and test, and different seeds, are drawn from different random streams.
    """
    check_split(split)
    count = train_images if split == "train" else test_images
    if count < 1 or image_size < 8:
        raise ValueError(
            f"shapes needs at least 1 image of at least 8 px, not {count} of {image_size}"
        )
    chunks = []
    for start in range(0, count, CHUNK):
        random = np.random.default_rng([seed, SPLITS.index(split), start // CHUNK])
        chunks.append(_draw(random, image_size, min(CHUNK, count - start)))
    pixels, labels = (
        torch.from_numpy(np.concatenate(parts)) for parts in zip(*chunks, strict=True)
    )
    return ImageSet(pixels, labels, CLASSES, MEAN, STD)


def _draw(stream: np.random.Generator, size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` images of a chunk: uint8 (count, 3, S, S) and int64 (count,)."""
    labels = stream.permutation(np.arange(CHUNK) % len(CLASSES))
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    x, y = axis[None, None, :], axis[None, :, None]
    lightness = _between(stream, 0.5 - MIDDLE, 0.5 + MIDDLE)
    image = lightness + _hue(stream) + _field(stream, size, 3, GRADIENT)
    image = image + _texture(stream, x, y) * _field(stream, size, 1, 1.0)
    for _ in range(CLUTTER):
        paint = lightness + _paint(stream, stream.integers(len(PAINTS), size=CHUNK))
        image = _over(image, paint, _clutter(stream, x, y) * _chance(stream, 0.6))
    order = stream.permuted(np.tile(np.arange(GRID**2) % len(PAINTS), (CHUNK, 1)), axis=1)
    for cell, (column, row) in enumerate(np.ndindex(GRID, GRID)):
        paint = lightness + _paint(stream, order[:, cell]) + _texture(stream, x, y)
        cover = _shape(
            stream, labels, GRID * (x + 1) - 2 * column - 1, GRID * (y + 1) - 2 * row - 1
        )
        image = _over(image, paint, cover)
    image += stream.normal(0, NOISE, image.shape).astype(np.float32)
    return (image[:count].clip(0, 1) * 255 + 0.5).astype(np.uint8), labels[:count]


def _over(image: np.ndarray, paint: np.ndarray, cover: np.ndarray) -> np.ndarray:
    return image + (paint - image) * cover


def _paint(stream: np.random.Generator, which: np.ndarray) -> np.ndarray:
    """One of the paints per image, slightly varied: (CHUNK, 3, 1, 1)."""
    return np.array(PAINTS, np.float32)[which, :, None, None] * _between(stream, *CONTRAST) + _hue(
        stream
    )


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
    return (np.choose(kind, (stripes, checks, blotches)) * _between(stream, 0, TEXTURE)[:, 0])[
        :, None
    ]


def _clutter(stream: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coverage of one small disc or bar per image, anywhere: (CHUNK, 1, S, S)."""
    dx, dy = x - _between(stream, -1, 1)[:, 0], y - _between(stream, -1, 1)[:, 0]
    u, v = _turned(dx, dy, _between(stream, 0, math.pi)[:, 0])
    length = (_between(stream, -0.4, 0.6).clip(0))[:, 0]  # 0 is a disc
    along = u - u.clip(-length, length)
    return _cover(np.hypot(along, v) - _between(stream, *CLUTTER_RADIUS)[:, 0], 2 / x.shape[-1])[
        :, None
    ]


def _shape(
    stream: np.random.Generator, labels: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Coverage of a shape of each image's class, in a pose of its own, (CHUNK, 1, S, S). x, y: -1..1 in its cell."""
    radius, stretch = _between(stream, *RADIUS)[:, 0], 1 + _between(stream, -STRETCH, STRETCH)[:, 0]
    dx, dy = (part - _between(stream, -OFF_CENTRE, OFF_CENTRE)[:, 0] for part in (x, y))
    u, v = _turned(dx / radius, dy / radius, _between(stream, -TILT, TILT)[:, 0])
    u, v = u * stretch, v / stretch
    distance = np.empty(u.shape, np.float32)
    for label, outline in enumerate(OUTLINES.values()):
        mine = labels == label
        distance[mine] = outline(u[mine], v[mine])
    return _cover(distance * radius, 2 * GRID / x.shape[-1])[:, None]


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
    quarter = [
        (half, -half),
        (reach, -half),
        (reach, half),
    ]  # then turned by 90 degrees three times
    return [((x, y), (-y, x), (-x, -y), (y, -x))[turn] for turn in range(4) for x, y in quarter]


def _heart(t: float) -> tuple[float, float]:
    y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
    return 0.83 * math.sin(t) ** 3, -0.83 * (y + 0.7) / 16


def _disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 0.85


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.78) - 0.13


def _crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(x - 0.15, y) - 0.95, 0.8 - np.hypot(x - 0.6, y))


OUTLINES = {  # signed distances, about the same centre
    "arrow": _polygon(
        [(-0.95, -0.17), (0.2, -0.17), (0.2, -0.6), (1, 0), (0.2, 0.6), (0.2, 0.17), (-0.95, 0.17)]
    ),
    "corner": _polygon(
        [(-0.6, -0.9), (-0.2, -0.9), (-0.2, 0.2), (0.9, 0.2), (0.9, 0.6), (-0.6, 0.6)]
    ),
    "crescent": _crescent,
    "cross": _polygon(_plus(0.2, 0.95)),
    "disc": _disc,
    "heart": _polygon([_heart(2 * math.pi * i / 28) for i in range(28)]),
    "ring": _ring,
    "square": _polygon([(-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)]),
    "star": _polygon([_at(0.42 if i % 2 else 1.05, i / 10) for i in range(10)]),
    "triangle": _polygon([_at(1.07, i / 3) for i in range(3)]),
}
CLASSES = tuple(OUTLINES)
MEAN = (0.523, 0.512, 0.495)  # measured
STD = (0.208, 0.198, 0.188)  # measured
