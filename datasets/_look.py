"""What a sample of a data set's files says about how all of them are to be converted: shape, channels, range of values.

One range of values holds for a whole data set, so that equal values stay equal whatever file they are in. It is the
smallest usual one (10, 12, 14, 16 bits, or 0..1 of floating-point numbers) that holds all values and is used by three
quarters; without one the 0.1 and 99.9 percentiles.
"""

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from . import _convert, _decode
from ._bytes import UNREADABLE, Place
from ._convert import Conversion, NoRange, Range, kind_of
from ._decode import Header

P = TypeVar("P")
HEADERS = 64  # files whose headers are read
MEASURED = 500  # images whose values are measured
VALUES = 4096  # of each of them, drawn at random
PERCENTILES = (0.1, 99.9)
USUAL = {
    "integers": (255.0, 1023.0, 4095.0, 16383.0, 65535.0),
    "floats": (1.0, 255.0),
}
KINDS = (*USUAL, "bytes")
"""Of values; the range of bytes is stated or none."""
USED = 0.75  # of a usual range
SQUARE = (1, 1)
SQUEEZED = 0.4  # share of the pixels that a crop may leave out where the fit is chosen: more than photos of 3:2 lose


class Measurement(NamedTuple):
    """The values of a sample of images."""

    range: Range
    """What becomes 0 and 255."""
    percentiles: Range
    images: int


class Look(NamedTuple):
    """How files are to be converted, with what was left open filled in."""

    conversion: Conversion
    measured: dict[str, Measurement]
    """For each kind of values whose range was measured."""

    def measure(self, places: Sequence[Place], kind: str) -> "Look":
        """The same with the range of values of this kind, measured on some of these files."""
        measurement = measure(places, kind, self.conversion)
        ranges: dict[str, Any] = {kind: measurement.range}
        conversion = self.conversion._replace(**ranges)
        return Look(conversion, {**self.measured, kind: measurement})

    def measure_rare(self, places: Sequence[Place], kind: str) -> "Look":
        """The same where the sample of headers had no file of this kind: all headers are read."""
        rare = [place for place in places if of_kind(_decode.header(place), kind)]
        return self.measure(rare, kind)


def spread(places: Sequence[P], count: int) -> list[P]:
    """At most so many, evenly spread."""
    count = min(count, len(places))
    return [places[index * len(places) // count] for index in range(count)]


def headers(places: Sequence[Place]) -> list[Header]:
    """Of a sample, those that can be read."""
    sample = [_decode.header(place) for place in spread(places, HEADERS)]
    return [header for header in sample if header is not None]


def settle(
    places: Sequence[Place],
    sample: list[Header],
    asked: Conversion,
    shape: tuple[int, int] = SQUARE,
) -> Look:
    """The conversion that is asked for, what it leaves open filled in by the headers of a sample of the files.

    shape: height and width that images are brought to, or their ratio.
    """
    look = Look(asked, {})
    if asked.fit == "auto":
        fit = "squeeze" if beyond_centre(sample, shape) > SQUEEZED else "crop"
        look = look._replace(conversion=look.conversion._replace(fit=fit))
    if not asked.channels:
        counts = Counter(header.channels for header in sample)
        channels = counts.most_common(1)[0][0] if counts else 3
        look = look._replace(conversion=look.conversion._replace(channels=channels))
    for kind in kinds_in(sample):
        if kind in USUAL and getattr(asked, kind) is None:
            measured = look.measure(places, kind)
            if measured.measured[kind].images:  # none where Pillow gives 8 bits of them
                look = measured
    return look


def check_channels(sample: list[Header], conversion: Conversion, title: str) -> None:
    """ValueError where every channel is kept and no file of a sample has as many as are wanted: none could be read."""
    wanted = conversion.channels
    if not (conversion.whole and wanted and sample):
        return
    there = sorted({header.channels for header in sample})
    if wanted in there or (wanted == 3 and 1 in there):  # grey is made colour
        return
    have = " or ".join(map(str, there))
    remedy = f"give files of {wanted} channels, or weights for {have}"
    if wanted in (1, 3):
        remedy = f"--channels {wanted} makes such of them"
    raise ValueError(
        f"{title}: its files have {channels(have)}, and the network takes {wanted} "
        f"(it was trained with --channels all): {remedy}"
    )


def channels(count: object) -> str:
    """How many, in words."""
    return f"{count} channel" + ("" if str(count) == "1" else "s")


def beyond_centre(sample: list[Header], shape: tuple[int, int] = SQUARE) -> float:
    """The share of the pixels that centred boxes of a shape would leave out, 0..1, in the mean over images."""
    shares = [_convert.beyond_centre(header[:2], shape) for header in sample]
    return statistics.fmean(shares) if shares else 0.0


def kinds_in(sample: list[Header]) -> list[str]:
    """The kinds of values that a sample may have."""
    return [kind for kind in KINDS if any(of_kind(header, kind) for header in sample)]


def of_kind(header: Header | None, kind: str) -> bool:
    """Whether a file's values may be of this kind: "bytes", "integers" of more than 8 bits, or "floats"."""
    if header is None:
        return False
    if header.bits == "8" or kind == "bytes":
        return header.bits == "8" and kind == "bytes"
    return (header.bits == "float") == (kind == "floats")


def measure(places: Sequence[Place], kind: str, conversion: Conversion) -> Measurement:
    """The values of this kind in a sample of files; those of other kinds count for nothing."""
    samples = []
    for place in spread(places, MEASURED):
        values = finite_values(place, kind, conversion)
        if len(values):
            samples.append(values)
    if not samples:  # files that cannot be read: any range will do
        return Measurement((0.0, USUAL[kind][-1]), (0.0, 0.0), 0)
    return of_values(np.concatenate(samples), kind, len(samples))


def finite_values(place: Place, kind: str, conversion: Conversion) -> np.ndarray:
    """Some of an image's values, at random; none where they are of another kind."""
    none = np.empty(0)
    try:
        values = _decode.deep_values(place, conversion)
    except (*UNREADABLE, NoRange):
        return none
    if values is None or kind_of(values) != kind:
        return none
    flat = values.reshape(-1)
    if flat.size > VALUES:
        flat = flat[np.random.default_rng(0).integers(flat.size, size=VALUES)]
    flat = flat.astype(np.float64)
    return flat[np.isfinite(flat)]


def of_values(values: np.ndarray, kind: str, images: int) -> Measurement:
    low, high = np.percentile(values, PERCENTILES)
    if kind == "integers":
        percentiles = (float(np.floor(low)), float(np.ceil(high)))
    else:
        percentiles = (float(f"{low:.4g}"), float(f"{high:.4g}"))
    for top in USUAL[kind]:
        if values.min() >= 0 and values.max() <= top and high - low >= USED * top:
            return Measurement((0.0, top), percentiles, images)
    low, high = percentiles
    return Measurement((low, high if high > low else low + 1), percentiles, images)
