"""Stored maps transform_maps what is done to their images: the published rule, and shifts."""

import pytest
import torch
from locality_guidance import COMMITTED, SHARED, close, recorded

from multicrop.augment import crop, shift
from multicrop.supervised import map_transform
from multicrop.supervised.augmentation import TrainDraws, TrainTransform
from multicrop.supervised.map_transform import transform_maps


def maps(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def cut(found: torch.Tensor, boxes, flipped, source: tuple[int, int]) -> torch.Tensor:
    """Maps of as many images as there are boxes; the padding and size of shifts play no part."""
    draws = TrainDraws(
        None, None, None, crop.CropBoxes(torch.as_tensor(boxes), torch.as_tensor(flipped))
    )
    return transform_maps(found.expand(len(boxes), *found.shape[-3:]), draws, source, -1, -1)


def shifted(found: torch.Tensor, start, flipped, size: int = 32, padding: int = 4) -> torch.Tensor:
    draws = TrainDraws(shift.Shifts(torch.as_tensor(start), torch.as_tensor(flipped)), None, None)
    return transform_maps(found, draws, (-1, -1), size, padding)


def test_no_float64_leaves_the_cpu(monkeypatch):
    """MPS has none."""
    sent = []

    def noted(numbers, _):
        sent.extend(number.dtype for number in numbers)
        return numbers

    monkeypatch.setattr(map_transform, "send_together", noted)
    cut(maps(1, 3, 4, 4), [[1, 2, 20, 30]], [True], (32, 32))
    shifted(maps(1, 3, 4, 4), [[1, 7]], [False])
    assert set(sent) == {torch.float32}


def check_published(tensors) -> None:
    """All boxes, and all flips, of every map."""
    boxes, whole = tensors["boxes_ijhw"], torch.tensor([[0, 0, 32, 32]])
    for name in ("0", "1", "2"):
        found = tensors[f"features/{name}"]
        ours = cut(found, boxes, [False] * len(boxes), (32, 32))
        for box, cropped in enumerate(ours):
            close(cropped, tensors[f"crop/{box}/{name}"])
        close(cut(found, whole, [True], (32, 32))[0], tensors[f"flip/{name}"])
        source = tuple(tensors["crop_nonsquare/image_hw"].tolist())
        close(
            cut(found, tensors["crop_nonsquare/box_ijhw"][None], [False], source)[0],
            tensors[f"crop_nonsquare/{name}"],
        )


def test_published_crops_and_flips():
    check_published(recorded(COMMITTED / "offline_features.npz"))


def test_published_crops_and_flips_of_every_channel(shared_golden):
    check_published(recorded(shared_golden / SHARED / "offline_features.safetensors"))


def test_a_flip_is_of_the_cropped_map():
    found = maps(3, 4, 8, 8)
    boxes = torch.tensor([[3, 5, 20, 17], [0, 0, 32, 32], [10, 1, 9, 11]])
    close(cut(found, boxes, [True] * 3, (32, 32)), cut(found, boxes, [False] * 3, (32, 32)).flip(3))


def test_a_box_smaller_than_a_step_leaves_one():
    found = maps(2, 3, 4, 4)
    ours = cut(found, torch.tensor([[9, 31, 3, 1], [31, 0, 1, 7]]), [False, False], (32, 32))
    close(ours[0], found[0, :, 1:2, 3:4].expand(3, 4, 4))
    close(ours[1], found[1, :, 3:4, 0:1].expand(3, 4, 4))


@pytest.mark.parametrize("flipped", [False, True])
def test_a_map_of_the_images_size_is_shifted_as_the_image(flipped):
    found = maps(9, 3, 32, 32)
    start = torch.tensor([[row, column] for row in (0, 4, 7) for column in (1, 4, 8)])
    flips = torch.full((9,), flipped)
    close(shifted(found, start, flips), shift.apply(found, shift.Shifts(start, flips), 4))


def test_offsets_of_smaller_maps_are_cut_to_whole_steps():
    found = maps(1, 2, 8, 8)  # 4 px a step

    def offset(start: int) -> torch.Tensor:
        return shifted(found, [[start, 4]], [False])

    for start in (1, 2, 3, 4, 5, 6, 7):
        close(offset(start), found)
    close(offset(0)[:, :, 1:], found[:, :, :-1])
    close(offset(8)[:, :, :-1], found[:, :, 1:])
    assert not offset(0)[:, :, 0].any() and not offset(8)[:, :, -1].any()


def test_half_precision_maps_are_interpolated_in_full():
    found = maps(2, 3, 8, 8).half()
    ours = cut(found, torch.tensor([[3, 5, 20, 17], [1, 2, 30, 30]]), [False, True], (32, 32))
    assert ours.dtype == torch.float32
    close(
        ours,
        cut(found.float(), torch.tensor([[3, 5, 20, 17], [1, 2, 30, 30]]), [False, True], (32, 32)),
    )


@pytest.mark.parametrize("cutting", [None, crop.RandomResizedCrop((0.2, 1.0))])
def test_images_and_their_maps_stay_together(cutting):
    """Of an image that is its own map: what is drawn for the one does nearly the same to the other."""
    coarse = torch.randint(256, (6, 3, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    images = (
        torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic")
        .clamp(0, 255)
        .to(torch.uint8)
    )
    transform = TrainTransform(32, (0.0,) * 3, (1.0,) * 3, policy=None, erase=None, cut=cutting)
    draws = transform.draw(6, torch.Generator().manual_seed(1))
    ours = transform_maps(images / 255, draws, (32, 32), 32, transform.padding)
    assert (ours - transform(images, draws)).abs().mean() < 0.02
