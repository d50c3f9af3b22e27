"""Crop, flip and resize in one map, against Pillow on the same boxes."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from multicrop.augment.boxes import random_boxes
from multicrop.augment.resample import resize_crops, weights


def noise(*shape):
    return torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def pillow(image, box, flip, size, steps=1):
    """image (C,H,W) uint8 -> (C,h,w) uint8; in two steps the horizontal axis is the first in every version of Pillow"""
    top, left, height, width = box.tolist()
    array = image.permute(1, 2, 0).squeeze(-1).numpy()
    out = Image.fromarray(array).crop((left, top, left + width, top + height))
    if steps == 2:
        out = out.resize((size[1], height), Image.Resampling.BICUBIC)
    out = out.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    array = np.array(ImageOps.mirror(out) if flip else out)
    return torch.from_numpy(array).view(*size, -1).permute(2, 0, 1)


CASES = [  # source, size, scale
    ((32, 32), (32, 32), (0.7, 1.0)),  # up
    ((32, 32), (16, 16), (0.2, 0.5)),  # up and down
    ((48, 48), (32, 32), (0.1, 1.0)),
    ((64, 48), (32, 32), (0.3, 1.0)),  # not square
    ((150, 41), (16, 24), (0.5, 1.0)),  # far down
    ((9, 7), (20, 33), (0.01, 0.2)),  # boxes narrower than the kernel
]


@pytest.mark.parametrize("source,size,scale", CASES)
@pytest.mark.parametrize(
    "contrast,steps", [(1.0, 2), (0.5, 1)]
)  # half of the contrast: nothing overshoots and is cut
def test_within_one_level_of_pillow(source, size, scale, contrast, steps):
    V, B = 3, 8
    images = (64 * (contrast < 1) + contrast * noise(B, 3, *source)).byte()
    limits = torch.tensor(scale, dtype=torch.float64).expand(V * B, 2)
    boxes = random_boxes(limits, *source, generator=torch.Generator().manual_seed(1)).view(V, B, 4)
    flip = torch.rand(V, B, generator=torch.Generator().manual_seed(2)) < 0.5
    ours = resize_crops(images, boxes, flip, size)
    assert ours.shape == (3, V, B, *size) and flip.any() and not flip.all()
    for v in range(V):
        for b in range(B):
            difference = (
                ours[:, v, b].round()
                - pillow(images[b], boxes[v, b], flip[v, b], size, steps).float()
            )
            assert difference.abs().max() <= 1 and difference.abs().mean() < 0.35


def test_the_whole_image_at_its_own_size_is_itself():
    images = noise(4, 3, 32, 32)
    boxes = torch.tensor([0, 0, 32, 32]).expand(2, 4, 4)
    flip = torch.tensor([[False], [True]]).expand(2, 4)
    crops = resize_crops(images, boxes, flip, (32, 32)).transpose(0, 1)
    assert torch.equal(crops[0].transpose(0, 1), images.float())
    assert torch.equal(crops[1].transpose(0, 1), images.flip(-1).float())


def test_nothing_outside_the_box_is_read():
    images = torch.full((1, 3, 20, 20), 255, dtype=torch.uint8)
    images[:, :, 5:9, 14:20] = 7
    crops = resize_crops(images, torch.tensor([[[5, 14, 4, 6]]]), torch.tensor([[False]]), (16, 16))
    torch.testing.assert_close(crops, torch.full_like(crops, 7.0))


def test_every_box_of_an_axis_has_weights_inside_it_that_sum_to_one():
    size, out = 11, 6
    start, length = torch.tensor([(s, n) for s in range(size) for n in range(1, size - s + 1)]).T
    for flip in (None, torch.ones_like(start, dtype=torch.bool)):
        map_ = weights(start, length, size, out, flip)
        torch.testing.assert_close(map_.sum(-1), torch.ones(len(start), out))
        pixel = torch.arange(size)
        outside = (pixel < start[:, None]) | (pixel >= (start + length)[:, None])
        assert (map_.abs().amax(1)[outside] == 0).all()


def test_one_channel():
    images = noise(2, 1, 32, 32)
    box, flip = torch.tensor([[[3, 4, 20, 25]] * 2]), torch.tensor([[False, True]])
    crops = resize_crops(images, box, flip, (16, 16))
    for b in range(2):
        assert (
            crops[:, 0, b].round() - pillow(images[b], box[0, b], flip[0, b], (16, 16), 2).float()
        ).abs().max() <= 1
