"""Stage two's transforms: each step, slicing by rank, determinism."""

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from conftest import ROOT

from multicrop.augment import changes, crop, jitter, shift
from multicrop.augment.crop import RandomResizedCrop
from multicrop.augment.erasing import Erasing
from multicrop.augment.evaluation import EvalTransform
from multicrop.supervised.augmentation import TrainTransform

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
IMAGES = torch.randint(
    256, (48, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_shift_is_flip_then_padded_crop():
    draws = shift.draw(48, 4, 0.5, generator())
    shifted = shift.apply(IMAGES, draws, 4)
    for i in range(48):
        image = TF.hflip(IMAGES[i]) if draws.flipped[i] else IMAGES[i]
        row, column = draws.start[i].tolist()
        assert torch.equal(shifted[i], TF.crop(TF.pad(image, 4), row, column, 32, 32))


def test_an_edge_keeps_what_is_at_the_border():
    draws = shift.draw(len(IMAGES), 4, 0.0, torch.Generator().manual_seed(0))
    flat = torch.full_like(IMAGES, 200)
    assert shift.apply(flat, draws, 4, edge=True).equal(flat)
    assert (shift.apply(flat, draws, 4) == 0).any()
    shifted = shift.apply(IMAGES, draws, 4, edge=True)
    padded = F.pad(IMAGES.double(), (4, 4, 4, 4), mode="replicate")
    for image, (top, left) in enumerate(draws.start.tolist()):
        height, width = IMAGES.shape[2:]
        window = padded[image, :, top : top + height, left : left + width]
        assert shifted[image].equal(window.to(torch.uint8))


def test_shift_draws_are_uniform():
    draws = shift.draw(20_000, 4, 0.5, generator())
    for axis in (0, 1):
        share = torch.bincount(draws.start[:, axis]) / 20_000
        assert len(share) == 9 and (share - 1 / 9).abs().max() < 0.01
    assert abs(draws.flipped.double().mean() - 0.5) < 0.02
    assert not shift.draw(100, 4, 0.0, generator()).flipped.any()


@pytest.mark.parametrize(
    "values",
    [
        {"jitters": 0.4, "policy": None},
        {
            "policy": "rand-m9-n3-p1",
            "cut": RandomResizedCrop(),
            "fill": None,
            "erase": Erasing(1.0),
        },
    ],
    ids=["jittered", "all"],
)
def test_what_is_drawn_is_sent_once(values, monkeypatch):
    """All the changes' numbers together, and by nobody else."""
    sent = []
    send_together = changes.send_together

    def noted(numbers, there):
        sent.append(len(numbers))
        return send_together(numbers, there)

    monkeypatch.setattr(changes, "send_together", noted)
    values = {"color_jitter": values.pop("jitters", 0.0), **values}
    transform = TrainTransform(32, MEAN, STD, **values)
    transform(IMAGES, transform.draw(48, generator()))
    assert len(sent) == 1 and sent[0] >= 4
    senders = [
        path.name
        for path in (ROOT / "augment").glob("*.py")
        if "send(" in path.read_text() or "send_together(" in path.read_text()
    ]
    assert sorted(senders) == ["changes.py", "device.py"]


def test_all_off_is_evaluation():
    plain = TrainTransform(32, MEAN, STD, flip=0.0, padding=0, policy=None, erase=None)
    assert torch.equal(
        plain(IMAGES, plain.draw(48, generator())), EvalTransform(32, MEAN, STD)(IMAGES)
    )


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_together_see_what_one_would(ranks):
    transform = TrainTransform(32, MEAN, STD)
    draws = transform.draw(48, generator())
    whole = transform(IMAGES, draws)
    share = 48 // ranks
    parts = [slice(rank * share, (rank + 1) * share) for rank in range(ranks)]
    assert torch.equal(whole, torch.cat([transform(IMAGES[part], draws[part]) for part in parts]))


def test_the_draw_is_a_function_of_the_generator():
    transform = TrainTransform(32, MEAN, STD)
    first, again, other = (
        transform(IMAGES, transform.draw(48, generator(seed))) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_erased_boxes_hold_the_fill():
    transform = TrainTransform(32, MEAN, STD, flip=0.0, padding=0, policy=None, fill=MEAN)
    draws = transform.draw(48, generator())
    changed = transform(IMAGES, draws) != EvalTransform(32, MEAN, STD)(IMAGES)
    assert changed.any() and changed.any((1, 2, 3)).sum() == (draws.boxes[:, 2] > 0).sum()
    filled = transform(IMAGES, draws).movedim(1, 3)[changed.any(1)]
    assert torch.equal(filled, torch.tensor(MEAN).expand_as(filled))


def published(**options):
    """As the DHVT and locality-guidance recipes have it."""
    cut, erase = RandomResizedCrop(), Erasing(0.25, 1 / 3, log_aspect=True)
    return TrainTransform(
        24, MEAN, STD, cut=cut, policy="rand-m9-mstd0.5-inc1", erase=erase, fill=None, **options
    )


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_together_see_what_one_would_as_published_elsewhere(ranks):
    transform = published(color_jitter=0.4)
    draws = transform.draw(48, generator(), source=(32, 32))
    whole = transform(IMAGES, draws)
    assert whole.shape == (48, 3, 24, 24) and torch.equal(whole, transform(IMAGES, draws))
    share = 48 // ranks
    parts = [slice(rank * share, (rank + 1) * share) for rank in range(ranks)]
    again = torch.cat([transform(IMAGES[part], draws[part]) for part in parts])
    assert (
        torch.allclose(whole, again, atol=0.1)
        and ((whole - again).abs() > 1e-5).double().mean() < 1e-3
    )


def test_random_resized_crops_are_pillows():
    draws = RandomResizedCrop(flip=0.5).draw(48, 32, 32, generator())
    images = 64 + IMAGES // 2  # nothing overshoots and is cut
    ours = crop.apply(images, draws, 24)
    for i, (top, left, height, width) in enumerate(draws.box.tolist()):
        image = TF.resized_crop(
            TF.to_pil_image(images[i]),
            top,
            left,
            height,
            width,
            [24, 24],
            TF.InterpolationMode.BICUBIC,
        )
        theirs = TF.pil_to_tensor(TF.hflip(image) if draws.flipped[i] else image)
        assert (ours[i].int() - theirs.int()).abs().max() <= 1
        assert (ours[i].int() - theirs.int()).abs().float().mean() < 0.5


def test_crops_of_images_that_are_not_square():
    images = torch.randint(256, (6, 3, 20, 50), dtype=torch.uint8, generator=generator())
    transform = TrainTransform(
        16, MEAN, STD, cut=RandomResizedCrop((0.3, 0.5)), policy=None, erase=None
    )
    draws = transform.draw(6, generator(), source=(20, 50))
    assert transform(images, draws).shape == (6, 3, 16, 16) and draws.crops.box[:, 3].max() > 20


def test_jitter_is_torchvisions():
    draws = jitter.draw(48, 0.4, generator())
    assert (draws.factors[:, :3] - 1).abs().max() <= 0.4 and (draws.factors[:, 3] == 0).all()
    ours = jitter.apply(IMAGES, draws)
    change = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    for i in range(48):
        image = TF.to_pil_image(IMAGES[i])
        for operation in draws.order[i].tolist():
            image = change[operation](image, draws.factors[i, operation].item())
        theirs = TF.pil_to_tensor(image)
        assert (
            ours[i].int() - theirs.int()
        ).abs().float().mean() < 2  # torchvision rounds down after each


def test_randaugment_shows_the_mean_colour_where_nothing_is():
    assert published().policy.fill == (125, 123, 114)


@pytest.mark.cuda
def test_cuda_gives_what_the_cpu_gives():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    transform = TrainTransform(32, MEAN, STD, policy="imagenet")
    draws = transform.draw(48, generator())
    assert torch.allclose(
        transform(IMAGES.cuda(), draws).cpu(), transform(IMAGES, draws), atol=1e-6
    )
    draws = published().draw(48, generator(), source=(32, 32))
    gap = (published()(IMAGES.cuda(), draws).cpu() - published()(IMAGES, draws)).abs()
    assert (gap > 0.02).double().mean() < 0.002
