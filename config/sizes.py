"""Sizes of images in pixels: one number is a square's side, two are height and width."""

ImageSize = int | tuple[int, int]


def height_width(size: ImageSize) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def shortest(size: ImageSize) -> ImageSize:
    """As one number where height and width are equal, so that a square is written in one way."""
    height, width = height_width(size)
    return height if height == width else (height, width)


def scaled(size: ImageSize, shorter: int) -> ImageSize:
    """The size of this shape whose shorter side has so many pixels."""
    height, width = height_width(size)
    least = min(height, width)
    return shortest((round(height * shorter / least), round(width * shorter / least)))


def half(size: ImageSize) -> ImageSize:
    """Half of height and width, rounded down."""
    height, width = height_width(size)
    return shortest((height // 2, width // 2))


def in_words(size: ImageSize) -> str:
    """32, or 32 x 64."""
    height, width = height_width(size)
    return str(height) if height == width else f"{height} x {width}"
