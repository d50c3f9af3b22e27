"""shapes: a procedural set of ten shapes with random pose, colour, texture and clutter; made in seconds, no download.

An image shows one class nine times, each time in a pose of its own, some of them light and some dark. So raw pixels
are poor neighbours, while every crop of an image, local ones too, shows the same class. All else that the crops of an
image share (its mean lightness and colour, how many shapes are light) is nearly the same for all images: whatever
varies there is an easier answer to self-distillation than the outline is, and is then learnt in its place. What differs
from crop to crop, a smooth change of colour and noise, hides the outlines from untrained networks and can be learnt
away; in version 1 there is so little of it that untrained convolutions tell the classes apart. The outlines cover
different areas: without that, a small network has nothing to start from and its targets become uniform. Distances are
in units of half the image's, or half a cell's, side; y points down.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator

from ._data_set import DataSet
from ._images import DEFAULTS, SPLITS, ImageSet, LoadOptions, check_split
from ._outlines import OUTLINES, Array

# How hard the set is.
GRID = 3  # shapes of one class per image: GRID x GRID, each in a cell of its own
RADIUS = (0.75, 1.00)  # of a shape's circumscribed circle, in half sides of its cell
TILT = 0.3  # largest rotation to either side, in radians; less of it is easier, also for raw pixels
STRETCH = 0.15  # largest relative stretch along one axis (and shrink along the other)
# Differences of the paints to the background, in turn over an image's shapes.
PAINTS = ((0.46, 0.40, 0.32), (-0.38, -0.40, -0.44))
CONTRAST = (0.9, 1.1)  # factor of the paints
MIDDLE = 0.02  # how far the background's lightness is from 1/2
HUES = 0.02  # how far the background and the paints are from their colour
TEXTURE = 0.03  # largest amplitude of stripes, checks and blotches, in the shapes and behind them
CLUTTER = 1  # most small discs and bars per image
CLUTTER_RADIUS = (0.04, 0.09)  # in half sides

CHUNK = 500  # images drawn together, from a random stream of their own: more images never change earlier ones


@dataclass(frozen=True)
class Version:
    """What tells the versions of the set apart."""

    off_centre: float
    """Largest shift of a shape along each axis, in half sides of its cell."""
    gradient: float
    """Amplitude of the background's smooth change of colour."""
    noise: float
    """Standard deviation of the noise of each pixel."""
    mean: tuple[float, float, float]
    """Of each channel, measured."""
    std: tuple[float, float, float]
    """The same."""


VERSIONS = {
    1: Version(0.5, 0.03, 0.04, mean=(0.523, 0.512, 0.495), std=(0.208, 0.198, 0.188)),
    2: Version(0.6, 0.25, 0.18, mean=(0.520, 0.512, 0.498), std=(0.267, 0.263, 0.257)),
}


def load(
    root: str | Path,
    split: str,
    options: LoadOptions = DEFAULTS,
    *,
    seed: int = 0,
    train_images: int = 5000,
    test_images: int = 1000,
    image_size: int = 32,
    version: int = 2,
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
        chunk_pixels, chunk_labels = _draw(
            stream, image_size, min(CHUNK, count - start), VERSIONS[version]
        )
        pixels.append(torch.from_numpy(chunk_pixels))
        labels.append(torch.from_numpy(chunk_labels))
    mean, std = VERSIONS[version].mean, VERSIONS[version].std
    return ImageSet(torch.cat(pixels), torch.cat(labels), CLASSES, mean, std)


def _draw(stream: Generator, size: int, count: int, version: Version) -> tuple[Array, Array]:
    """The first `count` images of a chunk: uint8 (count, 3, S, S) and int64 (count,)."""
    labels = stream.permutation(np.arange(CHUNK) % len(CLASSES))
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    x, y = axis[None, None, :], axis[None, :, None]
    lightness = _between(stream, 0.5 - MIDDLE, 0.5 + MIDDLE)

    # The background: a colour that changes smoothly, and a texture that is stronger here than there.
    colour = lightness + _hue(stream)
    image = colour + _field(stream, size, 3, version.gradient)
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
        image = _over(image, paint, _shape(stream, labels, cell_x, cell_y, version.off_centre))

    image += stream.normal(0, version.noise, image.shape).astype(np.float32)
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


def _shape(stream: Generator, labels: Array, x: Array, y: Array, off_centre: float) -> Array:
    """Coverage of a shape of each image's class, in a pose of its own, (CHUNK, 1, S, S). x, y: -1..1 in its cell."""
    radius = _between(stream, *RADIUS)
    stretch = 1 + _between(stream, -STRETCH, STRETCH)
    dx = x - _between(stream, -off_centre, off_centre)
    dy = y - _between(stream, -off_centre, off_centre)
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


CLASSES = tuple(OUTLINES)

DATASET = DataSet(
    title="ten procedural shapes, made by this program",
    layout="nothing: the images are drawn in seconds",
    load=load,
    variants={"shapes_1": {"version": 1}},
)
