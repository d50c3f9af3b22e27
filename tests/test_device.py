"""augment/device.py, and that no step of either stage waits for its device."""

import dataclasses
from contextlib import nullcontext

import pytest
import torch
from conftest import recipe
from test_map_transform import shifted

from multicrop.augment.device import channels, send
from multicrop.augment.evaluation import EvalTransform
from multicrop.commands import _classifier, _student, finetune, pretrain
from multicrop.commands._finetune_data import FinetuneData, backbone_options, mixed_batches
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.datasets._images import ImageSet
from multicrop.engine.batches import Batches
from multicrop.ssl.crops import MultiCrop
from multicrop.supervised.augmentation import TrainTransform
from multicrop.supervised.mixing import Mixing
from multicrop.weights.pretrained import Pretrained

SMALL = {"embed_dim": 24, "num_layers": 2, "num_heads": 2}
RGB = (0.4, 0.5, 0.6)
PIXELS = torch.randint(
    256, (64, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
LABELS = torch.arange(64) % 10
SHORT = {"image_size": 32, "accumulate": 2, "compile": False}
ONE = {**SHORT, "out_dim": 64, "local_crops_number": 2}
STAGE_ONE = recipe(Pretraining, **SMALL, **ONE)
STAGE_TWO = recipe(Finetuning, **SMALL, **SHORT, scratch=True, mix_prob=1.0, re=1.0)


def stage_one(device: torch.device, settings: Pretraining = STAGE_ONE, batch: int = 8):
    """The batches, and a function from a step to its crops."""
    accumulate = settings.optimisation.accumulate
    pixels = PIXELS.repeat(max(1, batch // 32), 1, 1, 1)
    batches = Batches(pixels, None, batch, seed=0, device=device, accumulate=accumulate)
    crop = MultiCrop.from_recipe(settings, RGB, RGB)
    return batches, lambda step: pretrain.cut_crops(batches, crop, 0, step)


def stage_two(device: torch.device, size: int = 32, **flags):
    batches = Batches(PIXELS, LABELS, 8, seed=0, device=device, accumulate=2)
    settings = dataclasses.replace(STAGE_TWO.augmentation, **flags)
    augment = TrainTransform.from_recipe(settings, "cifar10", size, RGB, RGB)
    mix = Mixing.from_recipe(settings)
    return batches, lambda step: mixed_batches(batches, augment, mix, STAGE_TWO, step, None)


def test_what_is_sent_arrives_and_what_is_there_stays():
    numbers = torch.arange(12).view(3, 4)[:, 1:3]
    assert send(numbers, "cpu") is numbers
    assert torch.equal(channels(RGB, torch.device("cpu")).flatten(), torch.tensor(RGB))
    assert channels(RGB, torch.device("cpu")) is channels(RGB, torch.device("cpu"))


@pytest.mark.parametrize(("kind", "size"), [("one", 32), ("two", 32), ("two", 24)])
def test_augmentation_reads_nothing_back(kind, size, monkeypatch):
    """Tensors of the meta device have no values: asking for one, or for a shape that depends on one, raises."""
    monkeypatch.setattr(
        torch, "autocast", lambda *_, **__: nullcontext()
    )  # it does not know that device
    meta = torch.device("meta")
    _, parts = stage_one(meta) if kind == "one" else stage_two(meta, size)
    for step in range(8):
        for part in parts(step):
            images = part.globals if kind == "one" else part.images
            assert images.device == meta and images.shape[-1] == size


@pytest.mark.parametrize("kind", ["one", "two", "maps", "evaluation"])
def test_no_product_of_augmentation_is_rounded_to_tf32(kind, monkeypatch):
    """Whatever --precision allows the networks."""
    seen = []
    for name in ("bmm", "einsum", "matmul"):
        product = getattr(torch, name)
        monkeypatch.setattr(
            torch,
            name,
            lambda *a, product=product, **k: seen.append(precision()) or product(*a, **k),
        )
    precision = torch.get_float32_matmul_precision
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    before = precision()
    torch.set_float32_matmul_precision("high")
    try:
        if kind == "evaluation":
            EvalTransform(24, RGB, RGB, fit="crop")(PIXELS)
        elif kind == "maps":
            shifted(torch.rand(1, 3, 4, 4), [[1, 7]], [False])
        else:
            _, parts = (
                stage_one(torch.device("cpu"))
                if kind == "one"
                else stage_two(torch.device("cpu"), crop_scale=(0.5, 1.0))
            )
            list(parts(0))
        assert set(seen) == {"highest"} and precision() == "high"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)


def whole_step(kind: str, device: torch.device, settings: Pretraining = STAGE_ONE, batch: int = 8):
    """A function from a step's number to what a whole step returns; settings, batch: of stage one."""
    if kind == "one":
        batches, parts = stage_one(device, settings, batch)
        nets = _student.build(settings, 3, device)
        rates = pretrain.rates_at(settings, 5, 100, 10, batches.total)
        schedule = nets.objective.schedule(0)
        return lambda step: pretrain.update(
            nets, parts(step), rates, schedule, settings, torch.bfloat16, step
        )
    batches, parts = stage_two(device)
    images = ImageSet(PIXELS, LABELS, tuple("abcdefghij"), RGB, RGB)
    options = backbone_options(STAGE_TWO, {}, 32, 3)
    data = FinetuneData(
        "cifar10", "CIFAR10", images, images, LABELS, LABELS, options, reported=True
    )
    nets = _classifier.build(STAGE_TWO, Pretrained(), data, device)
    return lambda step: finetune.update(nets, parts(step), STAGE_TWO, 1e-3, step, torch.bfloat16)


@pytest.mark.parametrize("kind", ["one", "two"])
def test_the_steps_of_the_next_test_run_on_a_cpu(kind):
    """So that it fits the code also where there is no GPU."""
    assert whole_step(kind, torch.device("cpu"))(0).loss.isfinite()


@pytest.mark.cuda
@pytest.mark.parametrize("kind", ["one", "two"])
def test_a_step_never_waits_for_the_gpu(kind):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    step = whole_step(kind, torch.device("cuda", 0))
    for warming in range(3):  # constants are sent once and kept
        step(warming)
    torch.cuda.set_sync_debug_mode("error")
    try:
        seen = [step(number) for number in range(3, 8)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(each.loss.isfinite() for each in seen)


@pytest.mark.cuda
def test_numbers_sent_without_waiting_are_whole():
    """Many at once, each a temporary that is freed at once."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    sent = [send(torch.full((1000, 50), float(i))[::2], "cuda") for i in range(200)]
    assert all((tensor == i).all() for i, tensor in enumerate(sent))
