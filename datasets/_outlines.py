"""The outlines of datasets/shapes.py as signed distances around one centre; y points down."""

import math
from collections.abc import Callable

import numpy as np

Array = np.ndarray
Outline = Callable[[Array, Array], Array]  # x, y -> signed distance, negative inside
Corners = list[tuple[float, float]]


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
