"""Which file names are images: all endings that the installed Pillow opens, and what the others would need."""

import functools

from PIL import Image

from ._bytes import register_heif

# Formats that Pillow opens, or only names, and that hold no picture of their own: documents, films, measurements
NO_IMAGES = {"BUFR", "EPS", "FLI", "GRIB", "HDF5", "IPTC", "MPEG", "PDF", "WMF"}
CSV, TSV, JSON_LINES, PARQUET = (".csv",), (".tsv", ".tab"), (".jsonl", ".ndjson"), (".parquet",)
TABLES = (*CSV, *TSV, *JSON_LINES, *PARQUET)
CONVERT = "convert them to PNG or TIFF"
NEEDED = {
    **dict.fromkeys((".heic", ".heif", ".heics", ".heifs", ".hif"), "pip install pillow-heif"),
    **dict.fromkeys((".avif", ".jp2", ".j2k", ".jpx", ".webp"), "this Pillow was built without it"),
    **dict.fromkeys((".jxl", ".jxr", ".svg", ".exr", ".hdr", ".dcm", ".nii", ".czi", ".nd2"), CONVERT),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"), CONVERT),
    **dict.fromkeys((".npy", ".npz", ".mat", ".h5", ".hdf5", ".nrrd", ".mha", ".raw"), CONVERT),
    "": "give each the ending of its format",
}  # fmt: skip
# Files without an ending that are certainly no images, in lower case
TEXTS = {
    "readme", "license", "licence", "copying", "notice", "authors", "changelog", "version", "makefile", "dockerfile",
    "checksums", "md5sums", "sha1sums", "sha256sums",
}  # fmt: skip


@functools.cache
def image_endings() -> tuple[str, ...]:
    """In lower case, with their dots."""
    register_heif()
    Image.init()
    opened = [
        ending
        for ending, kind in Image.registered_extensions().items()
        if kind in Image.OPEN and kind not in NO_IMAGES
    ]
    return (*opened, ".mpo")  # two JPEG images in one file: Pillow opens the first as JPEG


def is_table(name: str) -> bool:
    """Whether a file of this name may be a table of images."""
    return name.lower().endswith(TABLES)


def is_image(name: str) -> bool:
    """Whether a file of this name is one that Pillow opens."""
    return name.lower().endswith(image_endings())


def ending(name: str) -> str:
    """ ".txt" of notes.TXT; "readme" of such a text without one; "" of other names without one."""
    stem, dot, last = name.lower().rpartition(".")
    if stem:
        return dot + last
    return name.lower() if name.lower() in TEXTS else ""


def needed(file_ending: str) -> str | None:
    """What an image of such a name needs before it can be read; None where it is no image that is known."""
    return NEEDED.get(file_ending)
