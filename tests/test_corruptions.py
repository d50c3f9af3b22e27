"""Corruptions: each against the formula in numpy, SciPy, scikit-image, OpenCV or Pillow on the same random numbers."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from multicrop.augment import _corrupt_digital as digital
from multicrop.augment import _corrupt_filter as filters
from multicrop.augment import _corrupt_noise as noise
from multicrop.augment import _corrupt_weather as weather
from multicrop.augment import corruptions
from multicrop.augment._corrupt_random import ImageRandom, image_seeds
from multicrop.augment._corrupt_severity import CIFAR_C, LENGTHS, TINY_IMAGENET_C, strength

MADE = tuple(corruptions.OPERATIONS)


def pictures(side: int, count: int = 3, channels: int = 3, width: int | None = None):
    """Smooth images with an edge and some texture, uint8 (count, channels, side, width or side)."""
    random = np.random.default_rng(side)
    width = width or side
    coarse = random.integers(0, 256, (count, channels, 5, 5)).astype(np.float32)
    smooth = torch.nn.functional.interpolate(
        torch.from_numpy(coarse), (side, width), mode="bicubic"
    )
    texture = torch.from_numpy(random.normal(0, 6, (count, channels, side, width)))
    images = (smooth + texture).clamp(0, 255).to(torch.uint8)
    images[:, :, side // 2 :, width // 3 : width // 2] //= 4
    return images


def randomness(name: str, severity: int, count: int) -> ImageRandom:
    """The numbers that corrupt() draws, to be drawn once more in the same order."""
    return ImageRandom(image_seeds(torch.arange(count), 0, name, severity))


def ours(images: torch.Tensor, name: str, severity: int) -> np.ndarray:
    """(B, H, W, C)"""
    return corruptions.corrupt(images, name, severity).permute(0, 2, 3, 1).numpy()


def unit(images: torch.Tensor) -> np.ndarray:
    """float64 (B, H, W, C) of 0..1."""
    return images.permute(0, 2, 3, 1).numpy() / 255


def stored(levels: np.ndarray) -> np.ndarray:
    """As the published sets are: cut to 0..255 and truncated; a whole level may come out as 254.9999998."""
    return np.uint8(np.clip(levels, 0, 1) * 255 + 1e-4)


def channels_last(numbers: torch.Tensor) -> np.ndarray:
    return numbers.movedim(1, -1).numpy().astype(np.float64)


def agree(found: np.ndarray, expected: np.ndarray, share: float = 0.01) -> None:
    """Equal but for a level in a few places, where another rounding truncates differently."""
    away = np.abs(found.astype(int) - expected.astype(int))
    assert away.max() <= 1, away.max()
    assert (away > 0).mean() <= share, (away > 0).mean()


SIDES = pytest.mark.parametrize("side", (32, 64))
SEVERITIES = pytest.mark.parametrize("severity", (1, 3, 5))


# Noise


@SIDES
@SEVERITIES
def test_noises_are_the_formulas(side, severity):
    images = pictures(side)
    x = unit(images)
    shape = images.shape[1:]
    for name, factor in (("gaussian_noise", 1), ("speckle_noise", x)):
        normal = channels_last(randomness(name, severity, 3).normal(*shape))
        (deviation,) = strength(name, severity, side)
        agree(ours(images, name, severity), stored(x + factor * deviation * normal))
    uniform = channels_last(randomness("impulse_noise", severity, 3).uniform(*shape))
    (amount,) = strength("impulse_noise", severity, side)
    expected = x.copy()
    expected[uniform < amount] = 1
    expected[uniform < amount / 2] = 0
    agree(ours(images, "impulse_noise", severity), stored(expected))


@pytest.mark.parametrize("photons", (15, 75, 500))
def test_shot_noise_has_poissons_distribution(photons):
    stats = pytest.importorskip("scipy.stats")
    levels = torch.tensor([0, 1, 30, 128, 255]) / 255
    uniform = (torch.arange(20000) + 0.5) / 20000
    counts = noise.poisson(levels[:, None].expand(-1, 20000), photons, uniform.expand(5, -1))
    expected = stats.poisson(levels.numpy()[:, None] * photons).ppf(uniform.numpy())
    assert (counts.numpy() != expected).mean() < 1e-3
    assert np.abs(counts.numpy() - expected).max() <= 1


def test_shot_noise_is_the_count_over_the_photons():
    images = pictures(32)
    (photons,) = strength("shot_noise", 5, 32)
    uniform = randomness("shot_noise", 5, 3).uniform(3, 32, 32)
    counts = noise.poisson(images / 255, photons, uniform)
    expected = stored(channels_last(counts) / photons)
    agree(ours(images, "shot_noise", 5), expected)


def test_noise_has_the_published_spread():
    gray = torch.full((8, 3, 64, 64), 128, dtype=torch.uint8)
    for severity in range(1, 6):
        levels = corruptions.corrupt(gray / 255, "gaussian_noise", severity)
        (deviation,) = strength("gaussian_noise", severity, 64)
        assert levels.std().item() == pytest.approx(deviation, rel=0.03)


# Blurs


@SIDES
@SEVERITIES
def test_gaussian_blur_is_scikit_images(side, severity):
    skimage = pytest.importorskip("skimage.filters")
    images = pictures(side)
    (sigma,) = strength("gaussian_blur", severity, side)
    expected = [skimage.gaussian(image, sigma=sigma, channel_axis=-1) for image in unit(images)]
    agree(ours(images, "gaussian_blur", severity), stored(np.stack(expected)))


@SIDES
@SEVERITIES
def test_defocus_blur_is_opencvs(side, severity):
    cv2 = pytest.importorskip("cv2")
    images = pictures(side)
    radius, alias = strength("defocus_blur", severity, side)
    grid = np.arange(-8, 9)
    inside = np.float32(grid[:, None] ** 2 + grid**2 <= radius**2)
    kernel = cv2.GaussianBlur(inside / inside.sum(), (3, 3), sigmaX=alias)
    expected = [cv2.filter2D(image, -1, kernel) for image in unit(images)]
    agree(ours(images, "defocus_blur", severity), stored(np.stack(expected)))


@SIDES
@SEVERITIES
def test_glass_blur_is_the_loop_over_pixels(side, severity):
    skimage = pytest.importorskip("skimage.filters")
    images = pictures(side, 2)
    sigma, reach, times = strength("glass_blur", severity, side)
    random = randomness("glass_blur", severity, 2)
    shifts = []
    for _ in range(times):
        shift = np.floor(random.uniform(2, side, side).numpy() * 2 * reach) - reach
        shifts.append(shift.astype(int))
    expected = []
    for number, image in enumerate(unit(images)):
        x = stored(skimage.gaussian(image, sigma=sigma, channel_axis=-1))
        for shift in shifts:
            for row in range(side - reach, reach, -1):
                for column in range(side - reach, reach, -1):
                    right, down = shift[number, :, row, column]
                    x[row, column] = x[row + down, column + right]
        expected.append(skimage.gaussian(x / 255, sigma=sigma, channel_axis=-1))
    agree(ours(images, "glass_blur", severity), stored(np.stack(expected)))


def test_the_published_exchange_of_two_pixels_changes_one():
    """Why glass_blur copies: both sides of numpy's exchange of rows are views."""
    x = np.arange(6).reshape(2, 3)
    x[0], x[1] = x[1], x[0]
    assert x.tolist() == [[3, 4, 5], [3, 4, 5]]


@pytest.mark.parametrize("angle", (-45.0, -12.5, 0.0, 33.0, -90.0, -135.0))
def test_motion_blur_is_the_sum_over_steps(angle):
    """ImageMagick's: step i looks at ceil(i cos - 1/2) to the right and ceil(i sin - 1/2) down."""
    radius, sigma = 9, 2.5
    image = torch.rand(1, 1, 20, 24, generator=torch.Generator().manual_seed(0))
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    expected = np.zeros((20, 24))
    for step, weight in enumerate(weights):
        right = math.ceil(step * math.cos(math.radians(angle)) - 0.5)
        down = math.ceil(step * math.sin(math.radians(angle)) - 0.5)
        for row in range(20):
            for column in range(24):
                place = min(max(row + down, 0), 19), min(max(column + right, 0), 23)
                expected[row, column] += weight * image[0, 0][place].item()
    found = filters.motion_blur(image, torch.tensor([angle]), radius, sigma)
    assert np.abs(found[0, 0].numpy() - expected).max() < 1e-5


def test_motion_blurs_angles_differ_and_stay_within_45_degrees():
    random = randomness("motion_blur", 3, 2000)
    angles = random.between(-45, 45, 1)
    assert -45 <= angles.min() < -44 and 44 < angles.max() <= 45


def zoomed(ndimage, image: np.ndarray, factor: float) -> np.ndarray:
    """The middle of an image (S, S, C), by SciPy."""
    side = len(image)
    width = math.ceil(side / factor)
    start = (side - width) // 2
    middle = image[start : start + width, start : start + width]
    large = ndimage.zoom(middle, (factor, factor, 1), order=1)
    cut = (len(large) - side) // 2
    return large[cut : cut + side, cut : cut + side]


@SIDES
@SEVERITIES
def test_zoom_blur_is_scipys(side, severity):
    ndimage = pytest.importorskip("scipy.ndimage")
    images = pictures(side)
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1], 0.01)
    expected = []
    for image in unit(images).astype(np.float32):
        total = sum(zoomed(ndimage, image, factor) for factor in factors)
        expected.append((image + total) / (len(factors) + 1))
    agree(ours(images, "zoom_blur", severity), stored(np.stack(expected)))


# Weather


@SIDES
@SEVERITIES
def test_snow_is_the_formula(side, severity):
    ndimage = pytest.importorskip("scipy.ndimage")
    images = pictures(side)
    mean, deviation, size, threshold, radius, sigma, share = strength("snow", severity, side)
    random = randomness("snow", severity, 3)
    normal = channels_last(random.normal(1, side, side))
    angles = random.between(-135, -45, 1)[:, 0]
    assert ((angles >= -135) & (angles <= -45)).all()
    layers = []
    for number in normal:
        layer = zoomed(ndimage, mean + deviation * number, size)
        layer[layer < threshold] = 0
        layers.append(stored(layer)[None, :, :, 0] / 255)
    layers = torch.from_numpy(np.stack(layers)).float()
    blurred = (filters.motion_blur(layers, angles, radius, sigma) * 255).round() / 255
    flakes = channels_last(blurred)
    x = unit(images)
    gray = x @ np.array([0.299, 0.587, 0.114])
    whitened = share * x + (1 - share) * np.maximum(x, gray[..., None] * 1.5 + 0.5)
    expected = whitened + flakes + np.rot90(flakes, 2, axes=(1, 2))
    agree(ours(images, "snow", severity), stored(expected))


def diamonds(uniform: np.ndarray, decay: float) -> np.ndarray:
    """The diamond-square algorithm on a torus, place by place."""
    side = len(uniform)
    heights = {(0, 0): 0.0}
    step, wibble = side, 100.0
    while step >= 2:
        half = step // 2
        starts = [(row, column) for row in range(0, side, step) for column in range(0, side, step)]

        def mean(row, column, places, amplitude):
            around = [heights[(row + y) % side, (column + x) % side] for y, x in places]
            return sum(around) / 4 + amplitude * uniform[row, column]

        diagonal = [(y, x) for y in (-half, half) for x in (-half, half)]
        straight = [(-half, 0), (half, 0), (0, -half), (0, half)]
        for row, column in starts:
            place = row + half, column + half
            heights[place] = mean(*place, diagonal, wibble**2)
        for row, column in starts:
            for place in ((row, column + half), (row + half, column)):
                heights[place] = mean(*place, straight, wibble**2)
        step, wibble = half, wibble / decay
    cloud = np.array([[heights[row, column] for column in range(side)] for row in range(side)])
    cloud -= cloud.min()
    return cloud / cloud.max()


@pytest.mark.parametrize("decay", (3, 1.75))
def test_plasma_is_the_diamond_square_algorithm(decay):
    uniform = ImageRandom(torch.arange(2)).between(-1, 1, 32, 32)
    found = weather.plasma(uniform, decay)
    for own, numbers in zip(found, uniform, strict=True):
        assert np.abs(own.numpy() - diamonds(numbers.double().numpy(), decay)).max() < 1e-5


@SEVERITIES
def test_fog_is_the_formula(severity):
    images = pictures(32) // 2
    amount, decay = strength("fog", severity, 32)
    uniform = randomness("fog", severity, 3).between(-1, 1, 32, 32)
    expected = []
    for image, numbers in zip(unit(images), uniform.double().numpy(), strict=True):
        highest = image.max()
        foggy = image + amount * diamonds(numbers, decay)[..., None]
        expected.append(foggy * highest / (highest + amount))
    agree(ours(images, "fog", severity), stored(np.stack(expected)))


@SIDES
@SEVERITIES
@pytest.mark.parametrize("name", ("brightness", "saturate"))
def test_colours_are_scikit_images_hsv(side, severity, name):
    color = pytest.importorskip("skimage.color")
    images = pictures(side)
    images[:, :, :4, :4] = 90  # without hue
    images[:, :, 4:6, :4] = 0
    hsv = color.rgb2hsv(unit(images))
    values = strength(name, severity, side)
    if name == "brightness":
        hsv[..., 2] = np.clip(hsv[..., 2] + values[0], 0, 1)
    else:
        hsv[..., 1] = np.clip(hsv[..., 1] * values[0] + values[1], 0, 1)
    agree(ours(images, name, severity), stored(color.hsv2rgb(hsv)))


# Digital


@SIDES
@SEVERITIES
def test_contrast_is_the_formula(side, severity):
    images = pictures(side)
    x = unit(images)
    mean = x.mean((1, 2), keepdims=True)
    (factor,) = strength("contrast", severity, side)
    agree(ours(images, "contrast", severity), stored((x - mean) * factor + mean))


@SIDES
@SEVERITIES
def test_pixelate_is_pillows(side, severity):
    images = pictures(side)
    (share,) = strength("pixelate", severity, side)
    small = int(side * share)
    for image, found in zip(images, ours(images, "pixelate", severity), strict=True):
        shown = Image.fromarray(image.permute(1, 2, 0).numpy())
        shown = shown.resize((small, small), Image.Resampling.BOX)
        shown = shown.resize((side, side), Image.Resampling.BOX)
        assert np.array_equal(found, np.asarray(shown))


@SEVERITIES
def test_jpeg_is_pillows(severity):
    images = pictures(32, 2)
    (quality,) = strength("jpeg_compression", severity, 32)
    for image, found in zip(images, ours(images, "jpeg_compression", severity), strict=True):
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        assert np.array_equal(found, np.asarray(Image.open(file)))


@SIDES
@SEVERITIES
def test_elastic_transform_is_scipys(side, severity):
    """OpenCV's affine map rounds places to 1/32 px, so SciPy's is the exact one here."""
    ndimage = pytest.importorskip("scipy.ndimage")
    cv2 = pytest.importorskip("cv2")
    images = pictures(side)
    amount, sigma, corner = (
        share * side for share in strength("elastic_transform", severity, side)
    )
    random = randomness("elastic_transform", severity, 3)
    moves = random.between(-1, 1, 3, 2).numpy() * corner
    noises = random.between(-1, 1, 2, side, side).numpy()
    y, x = np.mgrid[:side, :side].astype(np.float64)
    expected = []
    for image, move, displacement in zip(unit(images), moves, noises, strict=True):
        c, r = side // 2, side // 3
        before = np.float32([[c + r, c + r], [c + r, c - r], [c - r, c - r]])
        back = cv2.invertAffineTransform(cv2.getAffineTransform(before, before + move))
        places = [back[1, 0] * x + back[1, 1] * y + back[1, 2]]
        places.append(back[0, 0] * x + back[0, 1] * y + back[0, 2])
        moved = [
            ndimage.map_coordinates(i, places, order=1, mode="mirror")
            for i in image.T.swapaxes(1, 2)
        ]
        shift = [
            ndimage.gaussian_filter(part, sigma, mode="reflect", truncate=3) * amount
            for part in displacement
        ]
        places = [y + shift[1], x + shift[0]]
        expected.append(
            [ndimage.map_coordinates(i, places, order=1, mode="reflect") for i in moved]
        )
    expected = np.moveaxis(np.array(expected), 1, -1)
    agree(ours(images, "elastic_transform", severity), stored(expected), share=0.02)


def test_the_affine_map_is_opencvs():
    cv2 = pytest.importorskip("cv2")
    images = pictures(32, 1)
    moves = torch.tensor([[[1.5, -2.0], [0.5, 2.25], [-2.5, 1.0]]])
    y, x = digital.affine_places(moves, 32, 32)
    found = filters.sample(images / 255, y, x, filters.mirror)[0].permute(1, 2, 0).numpy()
    before = np.float32([[26, 26], [26, 6], [6, 6]])
    matrix = cv2.getAffineTransform(before, before + moves[0].numpy())
    image = unit(images)[0].astype(np.float32)
    theirs = cv2.warpAffine(image, matrix, (32, 32), borderMode=cv2.BORDER_REFLECT_101)
    assert np.abs(found - theirs).mean() < 1 / 255


# The whole


@pytest.mark.parametrize("name", MADE)
def test_an_image_is_corrupted_alike_in_any_batch(name):
    images = pictures(32, 5)
    whole = corruptions.corrupt(images, name, 4, seed=3)
    assert whole.shape == images.shape and whole.dtype == torch.uint8
    assert torch.equal(whole, corruptions.corrupt(images, name, 4, seed=3))
    part = corruptions.corrupt(images[[4, 1]], name, 4, seed=3, index=torch.tensor([4, 1]))
    assert (part.int() - whole[[4, 1]].int()).abs().max() <= 1
    floats = corruptions.corrupt(images / 255, name, 4, seed=3)
    assert torch.allclose(floats * 255, whole.float(), atol=1e-3)


DRAWN = (
    "gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "fog", "elastic_transform",
    "speckle_noise",
)  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_what_is_drawn_follows_from_seed_severity_and_number(name):
    images = pictures(32, 1).expand(2, -1, -1, -1)
    first = corruptions.corrupt(images, name, 5)
    other = corruptions.corrupt(images, name, 5, seed=1)
    assert torch.equal(first, other) == (name not in DRAWN)
    assert torch.equal(first[0], first[1]) == (name not in DRAWN)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("shape", ((3, 28, 40), (1, 28, 28), (3, 96, 96)))
def test_other_sizes_and_gray_images(name, shape):
    channels, height, width = shape
    if channels == 1 and name == "saturate":
        pytest.skip("colours only")
    images = pictures(height, 2, channels, width)
    seen = [corruptions.corrupt(images, name, severity) for severity in (1, 5)]
    for corrupted in seen:
        assert corrupted.shape == images.shape and corrupted.float().std() > 1
    away = [(corrupted.float() - images).abs().mean() for corrupted in seen]
    assert away[1] > 0.5


def test_strength_grows_with_severity():
    """But for two published exceptions: elastic_transform changes its kind, and saturate first takes colour away."""
    images = pictures(32, 16)
    for name in set(MADE) - {"elastic_transform", "saturate", "glass_blur"}:
        away = [
            (corruptions.corrupt(images, name, severity).float() - images).abs().mean().item()
            for severity in range(1, 6)
        ]
        assert away[4] > away[2] > away[0], (name, away)


def test_gray_is_corrupted_as_a_gray_image_of_three_channels_is():
    gray = pictures(32, 2, 1)
    for name in ("snow", "fog", "brightness", "contrast", "pixelate", "motion_blur"):
        three = corruptions.corrupt(gray.expand(-1, 3, -1, -1), name, 3)
        one = corruptions.corrupt(gray, name, 3)
        assert (three.int() - one.int()).abs().max() <= 1, name


def test_lengths_grow_with_the_side_and_published_sides_are_published():
    for name, rows in CIFAR_C.items():
        for severity, (small, large) in enumerate(
            zip(rows, TINY_IMAGENET_C[name], strict=True), start=1
        ):
            assert strength(name, severity, 32) == small
            assert strength(name, severity, 64) == large
            doubled = list(large)
            for place in LENGTHS.get(name, ()):
                doubled[place] *= 2
            assert strength(name, severity, 128) == tuple(doubled)
    assert strength("contrast", 1, 45) == (0.75,) and strength("contrast", 1, 46) == (0.4,)


def test_what_cannot_be_made_is_said():
    images = pictures(32, 1)
    for name, words in (
        ("frost", "frost cannot be made here: it lays photographs"),
        ("spatter", "spatter cannot be made here"),
        ("rain", "no corruption is called 'rain'; known: gaussian_noise, "),
    ):
        with pytest.raises(ValueError, match=words):
            corruptions.corrupt(images, name, 1)
    with pytest.raises(ValueError, match="a severity is 1 to 5, not 6"):
        corruptions.corrupt(images, "fog", 6)
    with pytest.raises(ValueError, match="saturate is for images of 3 channels, and these have 1"):
        corruptions.corrupt(images[:, :1], "saturate", 1)
    with pytest.raises(ValueError, match="images of 4 x 32 px are too small"):
        corruptions.corrupt(images[:, :, :4], "fog", 1)
    assert set(corruptions.PUBLISHED) - set(corruptions.CORRUPTIONS) == {"frost"}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", MADE)
def test_a_gpu_gives_the_same_images(name):
    images = pictures(64, 4)
    own = corruptions.corrupt(images, name, 3)
    theirs = corruptions.corrupt(images.cuda(), name, 3).cpu()
    away = (own.int() - theirs.int()).abs()
    assert (away > 1).float().mean() < 1e-3
