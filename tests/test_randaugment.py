"""RandAugment against timm's own functions, operation by operation, and its draws."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as theirs

from multicrop.augment import randaugment
from multicrop.augment.operations import Operations
from multicrop.augment.randaugment import ENHANCING, LARGEST, NAMES, RandAugment

PUBLISHED = "rand-m9-mstd0.5-inc1"
MEAN = (124, 116, 104)
THEIRS = {
    "autocontrast": "AutoContrast", "equalise": "Equalize", "invert": "Invert", "rotate": "Rotate",
    "posterise": "Posterize", "solarise": "Solarize", "solarise_add": "SolarizeAdd", "colour": "Color",
    "contrast": "Contrast", "brightness": "Brightness", "sharpness": "Sharpness", "shear_x": "ShearX",
    "shear_y": "ShearY", "translate_x": "TranslateXRel", "translate_y": "TranslateYRel",
}  # fmt: skip
SIGNED = (*LARGEST, *ENHANCING)


def pictures(shape, count=12):
    """uint8 (B, C, H, W): noise, smooth ramps, a constant, few levels."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, *shape, 3), dtype=np.uint8)
    ramp = np.linspace(20, 200, shape[1], dtype=np.uint8)[:, None]
    images[4:8] = ramp + generator.integers(0, 9, (4, *shape, 3))
    images[8] = 7
    images[9] = images[9] // 100 * 100
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def timms(name, image, magnitude, sign, increasing):
    """timm's operation with the sign that it would have drawn."""
    grows = increasing and (name in ENHANCING or name in ("posterise", "solarise"))
    key = THEIRS[name] + ("Increasing" if grows else "")
    op = theirs.AugmentOp(
        key, 1.0, magnitude, {"img_mean": MEAN, "interpolation": Image.Resampling.BICUBIC}
    )
    if name == "posterise" and op.level_fn(magnitude, {}) == (0,):
        return torch.zeros_like(image)  # what Pillow made of 0 bits until it came to refuse them
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "random", lambda: 0.75 if sign < 0 else 0.25)
        return torch.from_numpy(np.array(op(picture))).permute(2, 0, 1)


@pytest.mark.parametrize("shape", [(32, 32), (24, 40)])
@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_operations_equal_timms(name, increasing, shape):
    images = pictures(shape)
    magnitude = torch.tensor(
        [0, 10, 9, 5.3, 7.7, 1.2, 9.99, 4, 2.5, 8.8, 10, 6.1], dtype=torch.float64
    )
    for sign in (1, -1) if name in SIGNED else (1,):
        index = torch.full((len(images), 1), NAMES.index(name))
        amount = randaugment.amounts(
            index, magnitude[:, None], torch.full_like(index, sign), increasing
        )
        ours = RandAugment(fill=MEAN)(images, Operations(index, amount)).int()
        expected = torch.stack([
            timms(name, image, level, sign, increasing) for image, level in zip(images, magnitude.tolist(), strict=True)
        ]).int()  # fmt: skip
        assert (ours - expected).abs().max() <= 1
        assert (ours != expected).double().mean() < 0.001


def test_the_published_string_is_read_as_timm_reads_it():
    ours = randaugment.read(PUBLISHED)
    timm = theirs.rand_augment_transform(PUBLISHED, {})
    assert (ours.count, ours.increasing, ours.probability) == (
        timm.num_layers,
        True,
        timm.ops[0].prob,
    )
    assert (ours.magnitude, ours.deviation) == (timm.ops[0].magnitude, timm.ops[0].magnitude_std)
    assert len(timm.ops) == len(NAMES)
    assert {op.name.removesuffix("Increasing") for op in timm.ops} == set(THEIRS.values())
    assert randaugment.read("rand-n3-p0.25") == RandAugment(count=3, probability=0.25)


@pytest.mark.parametrize(
    "spec", ["rand-", "rand-m", "augmix-m3", "rand-m9-mmax20", "rand-m11", "rand-p1.5", "rand-inc2"]
)
def test_other_strings_are_refused(spec):
    with pytest.raises(ValueError, match="magnitude"):
        randaugment.read(spec)


def test_draws_are_timms():
    many = 60_000
    draws = randaugment.read(PUBLISHED).draw(many, torch.Generator().manual_seed(0))
    assert draws.operation.shape == draws.amount.shape == (many, 2)
    for slot in (0, 1):
        share = torch.bincount(draws.operation[:, slot] + 1, minlength=16) / many
        assert abs(share[0] - 0.5) < 0.01  # not applied
        assert (share[1:] - 1 / 30).abs().max() < 0.005
    together = (draws.operation[:, 0] == draws.operation[:, 1]) & (draws.operation[:, 0] >= 0)
    assert abs(together.double().mean() - 1 / 60) < 0.004  # with replacement


def test_amounts_have_timms_spread_and_signs():
    draws = randaugment.read(PUBLISHED).draw(60_000, torch.Generator().manual_seed(1))
    for name in SIGNED:
        amount = draws.amount[draws.operation == NAMES.index(name)]
        centred = (amount - 1) / 0.9 if name in ENHANCING else amount / LARGEST[name]
        assert abs((centred > 0).double().mean() - 0.5) < 0.04, name
        magnitude = 10 * centred.abs()
        assert abs(magnitude.mean() - 8.99) < 0.03 and abs(magnitude.std() - 0.48) < 0.03, (
            name
        )  # cut at 10
    bits = draws.amount[draws.operation == NAMES.index("posterise")]
    assert (
        set(bits.unique().tolist()) <= {0.0, 1.0, 2.0}
        and abs((bits == 1).double().mean() - 0.975) < 0.02
    )


def test_a_batch_is_the_images_one_by_one_and_stays_as_it_is():
    images = pictures((16, 16), 40)
    augment = randaugment.read(PUBLISHED, MEAN)
    draws = augment.draw(40, torch.Generator().manual_seed(2))
    before = images.clone()
    batch = augment(images, draws)
    alone = torch.cat([augment(images[i : i + 1], draws[i : i + 1]) for i in range(40)])
    assert (
        torch.equal(batch, alone) and torch.equal(images, before) and not torch.equal(batch, before)
    )


@pytest.mark.parametrize("name", NAMES)
def test_grey_images_go_through_every_operation(name):
    images = pictures((8, 8))[:2, :1]
    index = torch.full((2, 1), NAMES.index(name))
    amount = randaugment.amounts(
        index, torch.full((2, 1), 9.0, dtype=torch.float64), torch.ones(2, 1), True
    )
    assert RandAugment(fill=(100,))(images, Operations(index, amount)).shape == images.shape


@pytest.mark.cuda
def test_cuda_gives_what_the_cpu_gives():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    augment, images = randaugment.read(PUBLISHED, MEAN), pictures((64, 64), 64)
    draws = augment.draw(64, torch.Generator().manual_seed(0))
    difference = (augment(images.cuda(), draws).cpu().int() - augment(images, draws).int()).abs()
    assert difference.max() <= 1 and (difference > 0).double().mean() < 0.001
