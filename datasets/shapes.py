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
from numpy.random import Generator

from ._data_set import DataSet
from ._images import DEFAULTS, SPLITS, ImageSet, LoadOptions, check_split

# How hard the set is.
GRID = 3  # shapes of one class per image: GRID x GRID, each in a cell of its own
RADIUS = (0.75, 1.00)  # of a shape's circumscribed circle, in half sides of its cell
OFF_CENTRE = 0.50  # largest shift of a shape along each axis, in half sides of its cell
TILT = 0.3  # largest rotation to either side, in radians; less of it is easier, also for raw pixels
STRETCH = 0.15  # largest relative stretch along one axis (and shrink along the other)
# Differences of the paints to the background, in turn over an image's shapes.
PAINTS = ((0.46, 0.40, 0.32), (-0.38, -0.40, -0.44))
CONTRAST = (0.9, 1.1)  # factor of the paints
MIDDLE = 0.02  # how far the background's lightness is from 1/2
HUES = 0.02  # how far the background and the paints are from their colour
GRADIENT = 0.03  # amplitude of the background's smooth change of colour
TEXTURE = 0.03  # largest amplitude of stripes, checks and blotches, in the shapes and behind them
NOISE = 0.04  # standard deviation of the noise of each pixel
CLUTTER = 1  # most small discs and bars per image
CLUTTER_RADIUS = (0.04, 0.09)  # in half sides

Array = np.ndarray
Outline = Callable[[Array, Array], Array]  # x, y -> signed distance, negative inside
Corners = list[tuple[float, float]]
CHUNK = 500  # images drawn together, from a random stream of their own: more images never change earlier ones


def load(
    root: str | Path,
    split: str,
    options: LoadOptions = DEFAULTS,
    *,
    seed: int = 0,
    train_images: int = 5000,
    test_images: int = 1000,
    image_size: int = 32,
) -> ImageSet:
    """Draw the split; the same arguments give the same images. root and options have no meaning here.

    Train and test, and different seeds, are drawn from different random streams.
    """
    check_split(split)
    count = train_images if split == "train" else test_images
    if count < 1 or image_size < 8:
        raise ValueError(
            f"shapes needs at least 1 image of at least 8 px, not {count} of {image_size}"
        )
    pixels, labels = [], []
    for start in range(0, count, CHUNK):
        stream = np.random.default_rng([seed, SPLITS.index(split), start // CHUNK])
        chunk_pixels, chunk_labels = _draw(stream, image_size, min(CHUNK, count - start))
        pixels.append(torch.from_numpy(chunk_pixels))
        labels.append(torch.from_numpy(chunk_labels))
    return ImageSet(torch.cat(pixels), torch.cat(labels), CLASSES, MEAN, STD)


def _draw(stream: Generator, size: int, count: int) -> tuple[Array, Array]:
    """The first `count` images of a chunk: uint8 (count, 3, S, S) and int64 (count,)."""
    labels = stream.permutation(np.arange(CHUNK) % len(CLASSES))
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    x, y = axis[None, None, :], axis[None, :, None]
    lightness = _between(stream, 0.5 - MIDDLE, 0.5 + MIDDLE)

    # The background: a colour that changes smoothly, and a texture that is stronger here than there.
    colour = lightness + _hue(stream)
    image = colour + _field(stream, size, 3, GRADIENT)
    texture = _texture(stream, x, y)
    image = image + texture * _field(stream, size, 1, 1.0)

    # Clutter: small discs and bars, each on about six images of ten.
    for _ in range(CLUTTER):
        index = stream.integers(len(PAINTS), size=CHUNK)
        paint = lightness + _paint(stream, index)
        cover = _clutter(stream, x, y)
        image = _over(image, paint, cover * _chance(stream, 0.6))

    # The shapes: one in each cell, in an order of paints of the image's own.
    paints = np.arange(GRID**2) % len(PAINTS)
    order = stream.permuted(np.tile(paints, (CHUNK, 1)), axis=1)
    for cell, (column, row) in enumerate(np.ndindex(GRID, GRID)):
        paint = lightness + _paint(stream, order[:, cell])
        paint = paint + _texture(stream, x, y)
        cell_x = GRID * (x + 1) - 2 * column - 1
        cell_y = GRID * (y + 1) - 2 * row - 1
        image = _over(image, paint, _shape(stream, labels, cell_x, cell_y))

    image += stream.normal(0, NOISE, image.shape).astype(np.float32)
    unit = image[:count].clip(0, 1)
    return (unit * 255 + 0.5).astype(np.uint8), labels[:count]


def _over(image: Array, paint: Array, cover: Array) -> Array:
    """The image with a paint on it where `cover` is 1."""
    return image + (paint - image) * cover


def _paint(stream: Generator, index: Array) -> Array:
    """The paint that each image's index names, slightly varied: (CHUNK, 3, 1, 1)."""
    paints = np.array(PAINTS, np.float32)[index, :, None, None]
    paints = paints * _between(stream, *CONTRAST)
    return paints + _hue(stream)


def _hue(stream: Generator) -> Array:
    """A colour of lightness zero, to be added to a grey: (CHUNK, 3, 1, 1)."""
    tint = stream.uniform(-HUES, HUES, (CHUNK, 3, 1, 1)).astype(np.float32)
    return tint - tint.mean(1, keepdims=True)


def _field(stream: Generator, size: int, channels: int, amplitude: float) -> Array:
    """Smooth random values over the image, (CHUNK, channels, S, S): a 4 x 4 grid, cosine-interpolated."""
    knots = stream.uniform(-amplitude, amplitude, (CHUNK, channels, 4, 4)).astype(np.float32)
    pixels = np.linspace(0, 3, size, dtype=np.float32)
    distance = pixels[:, None] - np.arange(4, dtype=np.float32)
    weights = (1 + np.cos(np.pi * distance.clip(-1, 1))) / 2  # (S, 4); each row sums to 1
    return weights @ knots @ weights.T


def _texture(stream: Generator, x: Array, y: Array) -> Array:
    """Stripes, checks or blotches of random direction and frequency, (CHUNK, 1, S, S)."""
    angle = _between(stream, 0, math.pi)
    frequency = _between(stream, 4, 14)
    u, v = _turn(x[:, None], y[:, None], angle)
    phase = _between(stream, 0, 2 * math.pi)
    stripes = np.sin(frequency * u + phase)
    checks = stripes * np.sin(frequency * v)
    blotches = _field(stream, x.shape[-1], 1, 1.5)
    kind = stream.integers(3, size=(CHUNK, 1, 1, 1))
    pattern = np.choose(kind, (stripes, checks, blotches))
    return pattern * _between(stream, 0, TEXTURE)


def _clutter(stream: Generator, x: Array, y: Array) -> Array:
    """Coverage of one small disc or bar per image, anywhere: (CHUNK, 1, S, S)."""
    dx = x - _between(stream, -1, 1)
    dy = y - _between(stream, -1, 1)
    angle = _between(stream, 0, math.pi)
    u, v = _turn(dx, dy, angle)
    length = _between(stream, -0.4, 0.6).clip(0)  # 0 is a disc
    along = u - u.clip(-length, length)
    radius = _between(stream, *CLUTTER_RADIUS)
    return _cover(np.hypot(along, v) - radius, 2 / x.shape[-1])


def _shape(stream: Generator, labels: Array, x: Array, y: Array) -> Array:
    """Coverage of a shape of each image's class, in a pose of its own, (CHUNK, 1, S, S). x, y: -1..1 in its cell."""
    radius = _between(stream, *RADIUS)
    stretch = 1 + _between(stream, -STRETCH, STRETCH)
    dx = x - _between(stream, -OFF_CENTRE, OFF_CENTRE)
    dy = y - _between(stream, -OFF_CENTRE, OFF_CENTRE)
    dx, dy = dx / radius, dy / radius
    u, v = _turn(dx, dy, _between(stream, -TILT, TILT))
    u, v = u * stretch, v / stretch
    distance = np.empty(u.shape, np.float32)
    for label, outline in enumerate(OUTLINES.values()):
        of_class = labels == label
        distance[of_class] = outline(u[of_class], v[of_class])
    return _cover(distance * radius, 2 * GRID / x.shape[-1])


def _cover(distance: Array, pixel: float) -> Array:
    """The share of each pixel inside an edge: 1 inside, 0 outside, a ramp of one pixel between."""
    return (0.5 - distance / pixel).clip(0, 1)


def _turn(x: Array, y: Array, angle: Array) -> tuple[Array, Array]:
    """Coordinates in a frame that is turned by `angle`, in radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


def _between(stream: Generator, low: float, high: float) -> Array:
    """A uniform number for each image: (CHUNK, 1, 1, 1)."""
    return stream.uniform(low, high, (CHUNK, 1, 1, 1)).astype(np.float32)


def _chance(stream: Generator, probability: float) -> Array:
    """True with this probability, for each image: (CHUNK, 1, 1, 1)."""
    return stream.random((CHUNK, 1, 1, 1)) < probability


def _polygon(corners: Corners) -> Outline:
    """Signed distance to a closed polygon, negative inside."""

    def distance(x: Array, y: Array) -> Array:
        nearest = np.full(x.shape, np.inf, np.float32)
        inside = np.zeros(x.shape, bool)
        ax, ay = corners[-1]
        for bx, by in corners:
            # The edge from a to b, and the point p, both seen from a.
            ex, ey = bx - ax, by - ay
            px, py = x - ax, y - ay
            along = (px * ex + py * ey) / (ex * ex + ey * ey)
            along = along.clip(0, 1)
            squared = (px - ex * along) ** 2 + (py - ey * along) ** 2
            nearest = np.minimum(nearest, squared)
            if ey:
                between = (ay > y) != (by > y)
                crossed = px < ex * py / ey  # by a ray to the right
                inside ^= between & crossed
            ax, ay = bx, by
        return np.where(inside, -1, 1) * np.sqrt(nearest)

    return distance


def _around(radii: list[float]) -> Corners:
    """Corners at equal angles, the first at the top, each at a distance of its own from the centre."""
    corners = []
    for i, radius in enumerate(radii):
        angle = 2 * math.pi * (i / len(radii))
        corners.append((radius * math.sin(angle), -radius * math.cos(angle)))
    return corners


def _plus(half: float, reach: float) -> Corners:
    """A cross of bars that are 2 x half wide and reach so far."""
    corners = []
    quarter = [(half, -half), (reach, -half), (reach, half)]
    for _ in range(4):
        corners += quarter
        quarter = [(-y, x) for x, y in quarter]  # turned by 90 degrees
    return corners


def _heart(corners: int) -> Corners:
    """Points of the well-known curve, scaled to the size of the other shapes."""
    points = []
    for i in range(corners):
        t = 2 * math.pi * i / corners
        x = math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((0.83 * x, -0.83 * (y + 0.7) / 16))
    return points


def _disc(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - 0.85


def _ring(x: Array, y: Array) -> Array:
    return np.abs(np.hypot(x, y) - 0.78) - 0.13


def _crescent(x: Array, y: Array) -> Array:
    disc = np.hypot(x - 0.15, y) - 0.95
    bite = np.hypot(x - 0.6, y) - 0.8
    return np.maximum(disc, -bite)


OUTLINES: dict[str, Outline] = {  # around one centre
    "arrow": _polygon(
        [(-0.95, -0.17), (0.2, -0.17), (0.2, -0.6), (1, 0), (0.2, 0.6), (0.2, 0.17), (-0.95, 0.17)]
    ),
    "corner": _polygon(
        [(-0.6, -0.9), (-0.2, -0.9), (-0.2, 0.2), (0.9, 0.2), (0.9, 0.6), (-0.6, 0.6)]
    ),
    "crescent": _crescent,
    "cross": _polygon(_plus(0.2, 0.95)),
    "disc": _disc,
    "heart": _polygon(_heart(28)),
    "ring": _ring,
    "square": _polygon([(-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)]),
    "star": _polygon(_around([1.05, 0.42] * 5)),
    "triangle": _polygon(_around([1.07] * 3)),
}
CLASSES = tuple(OUTLINES)
MEAN = (0.523, 0.512, 0.495)  # measured
STD = (0.208, 0.198, 0.188)  # measured

DATASET = DataSet(
    title="ten procedural shapes, made by this program",
    layout="nothing: the images are drawn in seconds",
    load=load,
)
