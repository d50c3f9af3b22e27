"""What a trained network sees: normalised images, resized where they have another side."""

import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_eval

from multicrop.augment.evaluation import EvalTransform, crop_centre, resize_bilinear

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


def test_images_of_another_side_are_resized_as_pillow_does():
    image = IMAGES[0].permute(1, 2, 0).numpy()
    for side in (20, 64):
        theirs = TF.pil_to_tensor(
            Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
        )
        assert (resize_bilinear(IMAGES[:1], side)[0].int() - theirs.int()).abs().max() <= 1


@pytest.mark.parametrize(("side", "share"), [(48, 0.875), (224 // 4, 0.9), (24, 1.0)])
def test_the_middle_is_what_pillow_makes_of_resize_and_centre_crop(side, share):
    transform = transforms_imagenet_eval(
        side, crop_pct=share, interpolation="bicubic", normalize=False
    )
    theirs = torch.stack([transform(TF.to_pil_image(image)) for image in IMAGES])
    assert (crop_centre(IMAGES, side, share).int() - theirs.int()).abs().max() <= 1
    seen = EvalTransform(side, MEAN, STD, crop_pct=share)(IMAGES)
    assert torch.allclose(
        seen, TF.normalize(crop_centre(IMAGES, side, share) / 255, MEAN, STD), atol=1e-6
    )


def test_images_of_the_size_are_seen_whole():
    assert torch.equal(
        EvalTransform(32, MEAN, STD, crop_pct=1.0)(IMAGES), EvalTransform(32, MEAN, STD)(IMAGES)
    )
