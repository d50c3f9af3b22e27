"""What a trained network sees: normalised images, resized where they have another side."""

from collections import Counter

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_eval

from multicrop.augment.evaluation import EvalTransform, resize
from multicrop.datasets._convert import Conversion, Form, fitted

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
IMAGES = torch.randint(
    256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def test_images_are_normalised():
    expected = TF.normalize(IMAGES / 255, MEAN, STD)
    assert torch.allclose(EvalTransform(32, MEAN, STD)(IMAGES), expected, atol=1e-6)
    assert torch.equal(
        EvalTransform(32, [*MEAN], [*STD])(IMAGES), EvalTransform(32, MEAN, STD)(IMAGES)
    )


def pillow(image: torch.Tensor, side: int, fit: str) -> torch.Tensor:
    """As image files of another shape become those of a data set."""
    form = Form((side, side), False, Conversion(fit))
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    return torch.from_numpy(np.ascontiguousarray(fitted(picture, form, Counter())))


@pytest.mark.parametrize("fit", ["crop", "squeeze", "pad"])
@pytest.mark.parametrize("shape", [(200, 200), (150, 97), (40, 133), (20, 20), (9, 14)])
def test_images_of_another_side_are_resized_as_files_are(shape, fit):
    """Larger and smaller ones, in every way of bringing other shapes to a square."""
    generator = torch.Generator().manual_seed(sum(shape))
    images = torch.randint(256, (2, 3, *shape), dtype=torch.uint8, generator=generator)
    seen = resize(images, 32, fit)
    for image, own in zip(images, seen, strict=True):
        difference = (own.int() - pillow(image, 32, fit).int()).abs()
        assert difference.max() <= 1 and difference.float().mean() < 0.3


@pytest.mark.parametrize("side", [16, 24, 56, 224])
def test_locality_guidances_resizing_is_pillows_bilinear(side):
    seen = EvalTransform(side, MEAN, STD, resample="bilinear").resize(IMAGES)
    for image, own in zip(IMAGES, seen, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        expected = np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))
        difference = (own.permute(1, 2, 0).int() - torch.from_numpy(expected.copy()).int()).abs()
        assert difference.max() <= 1 and difference.float().mean() < 0.3


@pytest.mark.parametrize(("side", "share"), [(48, 0.875), (224 // 4, 0.9), (24, 1.0)])
def test_the_middle_is_what_pillow_makes_of_resize_and_centre_crop(side, share):
    transform = transforms_imagenet_eval(
        side, crop_pct=share, interpolation="bicubic", normalize=False
    )
    theirs = torch.stack([transform(TF.to_pil_image(image)) for image in IMAGES])
    transform = EvalTransform(side, MEAN, STD, crop_pct=share)
    seen = transform.resize(IMAGES)
    assert (seen.int() - theirs.int()).abs().max() <= 1
    assert torch.allclose(transform(IMAGES), TF.normalize(seen / 255, MEAN, STD), atol=1e-6)


def test_autocast_changes_no_pixel():
    transform = EvalTransform(20, MEAN, STD, fit="crop")
    with torch.autocast("cpu", torch.bfloat16):
        seen = transform.resize(IMAGES[:, :, :, :24])
    assert torch.equal(seen, transform.resize(IMAGES[:, :, :, :24]))


def test_images_of_the_size_are_seen_whole():
    assert torch.equal(
        EvalTransform(32, MEAN, STD, crop_pct=1.0)(IMAGES), EvalTransform(32, MEAN, STD)(IMAGES)
    )
