"""How image files become pixels: what flags say, else what a network was trained on, else what its images need."""

from typing import Any

from multicrop.config.data import DataSettings, ImageFiles
from multicrop.config.flags import typed
from multicrop.datasets._convert import Conversion, Range
from multicrop.datasets._images import ImageSet
from multicrop.datasets._notes import stored_ranges
from multicrop.engine.metadata import Metadata
from multicrop.registry import source

OLD_RANGES: dict[str, Range] = {"integers": (0.0, 65535.0)}
"""What older versions, which did not write it down, did with files of 16 bits."""


def conversion_of(data: ImageFiles, dataset: str, metadata: Metadata | None = None) -> Conversion:
    """The conversion of a data set's files. A network sees all images, of whatever data set, as those of its training.

    Where nothing says, one's own images are squeezed if a crop would leave out much; published sets are cropped.
    """
    conversion = trained_conversion(metadata) if metadata else Conversion("")
    fit = data.fit or conversion.fit or ("auto" if source(dataset).own else "crop")
    conversion = conversion._replace(fit=fit)
    if data.channels == "all" and not conversion.whole:
        conversion = conversion._replace(channels=0, whole=True)
    elif data.channels in ("1", "3"):
        conversion = conversion._replace(channels=int(data.channels), whole=False)
    if data.value_range:
        limits = data.value_range
        conversion = conversion._replace(integers=limits, floats=limits, bytes=limits)
    return conversion


def trained_conversion(metadata: Metadata) -> Conversion:
    """How the images of a checkpoint of ours were converted; what it does not say is left open, and fit is empty."""
    if not metadata.data:
        return Conversion("")
    ranges: dict[str, Any] = metadata.data.get("value_range", OLD_RANGES)
    return Conversion(
        metadata.fit,
        metadata.backbone.get("in_channels", 3),
        metadata.data.get("channels") == "all",
        **{kind: (limits[0], limits[1]) for kind, limits in ranges.items()},
    )


def described_conversion(images: ImageSet) -> dict[str, Any]:
    """What a checkpoint says of it: plain values. Of images that were not files it says that nothing holds."""
    conversion = images.conversion
    if conversion is None:
        return {"fit": None, "channels": None, "value_range": {}}
    return {
        "fit": conversion.fit,
        "channels": "all" if conversion.whole else conversion.channels,
        "value_range": stored_ranges(conversion),
    }


def stated_flags(data: DataSettings) -> tuple[str, ...]:
    """What is stated of how files become pixels, as it was typed."""
    flags = []
    if data.channels in ("1", "3"):
        flags.append(f"--channels {data.channels}")
    if data.fit:
        flags.append(f"--fit {data.fit}")
    if data.value_range:
        flags.append(f"--value_range {typed(data.value_range)}")
    return tuple(flags)


def check_stated(images: ImageSet, stated: tuple[str, ...], dataset: str) -> None:
    """ValueError where something is stated of the conversion of images that were no files, unless they are so."""
    if images.conversion is not None:
        return
    channels, *sides = images.pixels.shape[1:]
    is_so = {f"--channels {channels}"}
    if sides[0] == sides[1]:
        is_so |= {f"--fit {fit}" for fit in ("crop", "squeeze", "pad")}
    for flag in stated:
        if flag not in is_so:
            raise ValueError(
                f"{flag}: the images of {dataset} are no files that could be converted, and have {channels} channels "
                "of 8 bits"
            )
