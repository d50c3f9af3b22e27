"""What was dropped, replaced or chosen while image files became pixels, in lines for people."""

from collections.abc import Collection, Mapping, Sequence

from . import _look
from ._console import say_once
from ._convert import Conversion

LEAST_CROPPED = 0.01  # share of the pixels of which nothing is said
OTHER_SHAPE = 0.1  # share of the pixels from which on another shape of images may be better
LEAST_OUTSIDE = 0.01  # share of the values
NAMES = {
    "integers": "integers of more than 8 bits",
    "floats": "floating-point values",
    "bytes": "values of 8 bits",
}
BECOMES = " becomes black to white"
SPLITS = ("train", "test", "val")
ALL = "--channels all keeps them"


def title(root: object, part: str) -> str:
    """What lines about images begin with: their folder, and their split where it shares the folder with others."""
    return f"{root} ({part})" if part in SPLITS else str(root)


def say(root: object, lines: Sequence[str]) -> None:
    """On standard error, each once in a process; one range of values once for all splits."""
    for line in lines:
        limits, is_range, _ = line.partition(BECOMES)
        say_once(f"{root}: {line}", limits if is_range else None)


def conversion_lines(
    conversion: Conversion,
    measured: Mapping[str, Sequence],
    beyond_centre: float,
    kinds: Collection[str],
    shape: tuple[int, int],
) -> list[str]:
    """What was chosen.

    beyond_centre: the share of the pixels that centred boxes of a shape, height and width, leave out, or would. kinds:
    of values of more than 8 bits that the files have; to others no range applies.
    """
    lines = []
    if beyond_centre >= LEAST_CROPPED:
        share = f"{beyond_centre:.0%} of the pixels"
        others = " or ".join(fit for fit in ("crop", "squeeze", "pad") if fit != conversion.fit)
        shapes = ", or --image_size HEIGHT WIDTH" if beyond_centre >= OTHER_SHAPE else ""
        form = "squares" if shape[0] == shape[1] else f"the shape of {shape[0]} x {shape[1]} px"
        lines.append(
            {
                "crop": f"images are cropped to {form} in their centre, which leaves out {share} "
                f"(--fit {others}{shapes} keeps them)",
                "squeeze": f"images are squeezed to {form}, as a crop would leave out {share} "
                f"(else --fit {others}{shapes})",
                "pad": f"images are padded to {form} with their mean colour, as a crop would leave out {share} "
                f"(else --fit {others}{shapes})",
            }[conversion.fit]
        )
    if conversion.whole:
        lines.append(f"{conversion.channels} channels (--channels all)")
    ranged = [kind for kind in ranges(conversion) if kind in kinds]
    return lines + [range_line(conversion, kind, measured) for kind in ranged]


def kinds_in(notes: Mapping[str, float]) -> list[str]:
    """The kinds of values that were brought to a range."""
    return [kind for kind in _look.KINDS if notes.get(f"{kind} all")]


def ranges(conversion: Conversion) -> list[str]:
    """The kinds of values that have a range."""
    return [kind for kind in _look.KINDS if getattr(conversion, kind) is not None]


def stored_ranges(conversion: Conversion) -> dict[str, list[float]]:
    """The ranges as plain values, by the kind of values."""
    return {kind: list(getattr(conversion, kind)) for kind in ranges(conversion)}


def range_line(conversion: Conversion, kind: str, measured: Mapping[str, Sequence]) -> str:
    low, high = getattr(conversion, kind)
    name = NAMES[kind]
    line = f"{name}: {low:g}..{high:g}{BECOMES}"
    if kind not in measured:
        return f"{line}, as stated or as for the training images"
    _, (least, greatest), images = measured[kind]
    return (
        f"{line}, measured on {images} images (0.1 and 99.9 percentile {least:g} and {greatest:g}); "
        "--value_range LOW HIGH gives another"
    )


def note_lines(notes: Mapping[str, float]) -> list[str]:
    """What was dropped or replaced, of counts of files that have it."""
    lines = []
    for note, count in sorted(notes.items()):
        kind, _, number = note.partition(" ")
        if kind == "channels":
            used = "red, green and blue" if int(number) > 2 else "the first"
            lines.append(f"{files(count)} {number} channels, {used} are used; {ALL}")
        if kind == "pages":
            lines.append(f"{files(count)} {number} pages, the first is used; {ALL}")
    texts = {
        "transparent": f"transparency, which becomes white; a fourth channel that is something else: {ALL}",
        "animated": "several frames, the first is used",
        "upper bits": "colours of 16 bits, of which the upper 8 are read; as TIFF files all are",
        "upper bits, TIFF": "colours of 16 bits, of which the upper 8 are read; "
        "all with: pip install tifffile imagecodecs",
    }
    lines += [f"{files(notes[note])} {text}" for note, text in texts.items() if notes.get(note)]
    if notes.get("not finite"):
        count, images = int(notes["not finite"]), int(notes["not finite files"])
        lines.append(
            f"{count} pixels of {images} images are no finite numbers: they become the image's mean "
            "(infinite ones an end of the range)"
        )
    for kind in _look.KINDS:
        outside = notes.get(f"{kind} outside", 0) / max(notes.get(f"{kind} all", 0), 1)
        if outside >= LEAST_OUTSIDE:
            lines.append(
                f"{outside:.0%} of the values lie outside the range and are cut; --value_range LOW HIGH gives another"
            )
    return lines


def files(count: float) -> str:
    return f"{int(count)} files have" if count != 1 else "1 file has"
