"""--recipe auto: what is measured of the images, the rules, and how they meet what was stated."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import launch, result_of
from PIL import Image

from multicrop import cli, registry
from multicrop.commands import _auto, pretrain
from multicrop.commands._inherited import inherited_augmentation
from multicrop.config import auto
from multicrop.config.augmentation import Augmentation
from multicrop.config.auto import ImageFacts
from multicrop.config.backbone import BackboneSettings
from multicrop.config.data import DataSettings
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.flags import to_flags
from multicrop.config.pretrain import Recipe
from multicrop.config.sizes import ImageSize, height_width
from multicrop.engine import checkpoint
from multicrop.engine.metadata import Checkpoint, Metadata
from multicrop.probes.images import brightness_share, mirror_share
from multicrop.weights.pretrained import Pretrained

PHOTOS = ImageFacts(images=5000, side=32, brightness_share=0.3, mirror_share=0.5)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


# Measurements


def test_brightness_between_images_counts():
    flat = torch.arange(0, 200, 10, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    assert brightness_share(flat) == pytest.approx(1)
    assert brightness_share(noise(40, 3, 16, 16)) < 0.05
    assert brightness_share(torch.full((4, 3, 8, 8), 7, dtype=torch.uint8)) == 0


def test_mirrored_images_are_strange_where_left_and_right_differ():
    """A bright left half in every image: mirrored, none looks like the others."""
    sided = noise(60, 3, 16, 16) // 4
    sided[..., :8] += 128
    assert mirror_share(sided) == 1
    both = torch.cat([sided[:30], sided[30:].flip(-1)])
    assert 0.3 < mirror_share(both) < 0.7


def test_sets_that_are_their_own_mirror_image_are_symmetric():
    images = noise(20, 3, 16, 16)
    assert mirror_share(torch.cat([images, images.flip(-1)], dim=-1)) == 0.5
    assert mirror_share(images[:3]) == 0.5


# Rules


def chosen(facts: ImageFacts) -> dict:
    return {choice.name: choice.value for choice in auto.network_choices(facts)}


def test_rules_follow_the_images():
    signs = ImageFacts(images=5000, side=32, brightness_share=0.5, mirror_share=0.9)
    assert chosen(signs)["crop_flip"] == 0 and chosen(PHOTOS)["crop_flip"] == 0.5
    assert chosen(signs)["standardise"] is True and chosen(PHOTOS)["standardise"] is False
    large = ImageFacts(images=200_000, side=200, brightness_share=0.3, mirror_share=0.5)
    assert chosen(large)["image_size"] == 64
    assert chosen(large)["out_dim"] > chosen(PHOTOS)["out_dim"]


@pytest.mark.parametrize(
    ("images", "size", "arch"),
    [
        (5000, 32, "cct_2_3x2_32"),
        (20_000, 32, "cct_4_3x2_32"),
        (50_000, 32, "cct_7_3x2_32"),
        (5000, 64, "compact:cct_2_3x3"),
        (5000, 16, "compact:cct_2_3x1"),
        (5000, 8, "compact:cct_2_3x1"),
        (5000, (32, 48), "compact:cct_2_3x2"),
    ],
)
def test_the_network_follows_from_number_and_size(images: int, size: ImageSize, arch: str):
    facts = replace(PHOTOS, images=images)
    choices = {c.name: c.value for c in auto.network_choices(facts, {"image_size": size})}
    assert choices["arch"] == arch and not choices.keys() & {*auto.SIZES_OF_VIT}
    network = registry.backbone(arch, image_size=size)
    height, width = height_width(size)
    for scale in (1, 2):  # of both crops
        assert network(torch.zeros(2, 3, height // scale, width // scale)).shape == (2, network.dim)


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_heads", 2), ("stem", "patch"), ("patch_size", 8), ("attention_init", "mimetic")],
)
def test_stated_sizes_of_a_vit_make_it_one(name: str, value: object):
    choices = {c.name: c for c in auto.network_choices(PHOTOS, {name: value})}
    assert choices["arch"].value == "vit" and f"--{name}" in choices["arch"].reason
    assert {*auto.SIZES_OF_VIT} < choices.keys()
    large = auto.network_choices(replace(PHOTOS, images=200_000), {name: value})
    assert {c.name: c.value for c in large}["embed_dim"] > choices["embed_dim"].value


def test_patches_of_a_vit_are_an_eighth():
    choices = auto.network_choices(PHOTOS, {"arch": "vit", "image_size": 64})
    assert {c.name: c.value for c in choices}["patch_size"] == 8


@pytest.mark.parametrize(
    "stated",
    [{"num_heads": 3}, {"num_heads": 12}, {"embed_dim": 90}, {"embed_dim": 30, "num_heads": 5}],
)
def test_width_and_heads_go_together(stated: dict):
    sizes = {choice.name: choice.value for choice in auto.network_choices(PHOTOS, stated)} | stated
    assert sizes["embed_dim"] % sizes["num_heads"] == 0


def test_patches_that_cannot_be_halved_get_no_convolutions():
    stated = {"image_size": 48, "patch_size": 6}
    choices = {choice.name: choice.value for choice in auto.network_choices(PHOTOS, stated)}
    assert choices["stem"] == "patch"


def test_simclr_gets_no_local_crops():
    choices = auto.network_choices(PHOTOS, {"objective": "simclr"})
    assert {choice.name: choice.value for choice in choices}["local_crops_number"] == 0


@pytest.mark.parametrize(
    ("stated", "share"),
    [({}, 1), ({"objective": "sigreg"}, 0), ({"batch_size_per_gpu": 1}, 0)],
)
def test_what_compares_a_batchs_images_goes_with_dino_and_several(stated: dict, share: int):
    choices = {choice.name: choice.value for choice in auto.network_choices(PHOTOS, stated)}
    assert choices["koleo_weight"] == 0.1 * share and choices["contrast_weight"] == 1.0 * share


def test_blur_shrinks_with_the_crop():
    assert chosen(PHOTOS)["blur_sigma"] == (0.014, 0.286)


@pytest.mark.parametrize("images", [2, 20, 200, 5000, 60_000, 10**6])
@pytest.mark.parametrize("side", [8, 32, 500])
def test_every_set_gets_settings_that_hold(images: int, side: int):
    """Rules never make a recipe that its own checks refuse, and batches are never larger than the set."""
    facts = ImageFacts(images, side, brightness_share=0.5, mirror_share=0.8)
    network = auto.network_choices(facts)
    batch = next(choice.value for choice in network if choice.name == "batch_size_per_gpu")
    assert images < 16 or batch <= images
    epochs, reason = auto.epochs_without_limit(images, batch)
    choices = network + auto.run_choices(images, batch, epochs, reason)
    assert all(choice.reason for choice in choices)
    words = cli.words_of({choice.name: choice.value for choice in choices})
    recipe = cli.parse(Recipe, words)
    flags = to_flags(recipe)
    assert flags["warmup_epochs"] < flags["epochs"]
    assert 0 <= flags["momentum_teacher"] < 1


def test_minutes_become_epochs():
    epochs, reason = auto.epochs_within(2, seconds_per_step=0.1, per_epoch=60)
    assert epochs == 20 and "0.1 s a step" in reason
    epochs, reason = auto.epochs_within(0.1, seconds_per_step=1, per_epoch=60)
    assert epochs == 1 and reason.endswith("one epoch takes 1 minutes, more than that")


# The command


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """48 images of 24 x 20 px in two classes and a test split."""
    pixels = noise(48, 20, 24, 3).numpy()
    for index, image in enumerate(pixels):
        split = "test" if index % 4 == 0 else "train"
        folder = tmp_path / "photos" / split / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    return tmp_path / "photos"


TINY = ("--embed_dim", "8", "--num_layers", "1", "--num_heads", "2", "--out_dim", "8", "--device", "cpu")  # fmt: skip


def parsed(photos: Path, *words: str) -> Recipe:
    folder = ("--dataset", "image_folder", "--datapath", str(photos))
    return cli.parse(Recipe, [*folder, "--output_dir", str(photos.parent / "run"), *TINY, *words])


def no_timing(recipe, images):
    raise AssertionError("nothing is to be timed")


def test_what_is_stated_stays(photos: Path, capsys):
    recipe = _auto.fill_in(parsed(photos, "--epochs", "3", "--blur-sigma", "0.1", "2.0"), no_timing)
    flags = to_flags(recipe)
    assert flags["epochs"] == 3 and flags["embed_dim"] == 8
    assert flags["blur_sigma"] == [0.1, 2.0]
    assert flags["stem"] == "conv" and flags["pool"] == "mean"  # what follows
    said = capsys.readouterr().err
    assert "--stem conv: " in said and "--blur_sigma" not in said


def test_what_follows_from_the_size_follows_from_a_stated_one(photos: Path):
    recipe = _auto.fill_in(parsed(photos, "--image_size", "16", "--epochs", "1"), no_timing)
    assert recipe.backbone.image_size == 16 and recipe.backbone.patch_size == 2
    assert recipe.crops.blur_sigma == (0.007, 0.143)


@pytest.mark.parametrize("size", range(8, 300, 2))
def test_patches_tile_both_crops_and_suit_the_stem(size: int):
    patch = auto.patch_size(size)
    assert size % patch == 0 and size // 2 % patch == 0 and patch & (patch - 1) == 0


@pytest.mark.slow
def test_ranks_agree_on_what_is_measured(photos: Path, tmp_path: Path):
    """Two ranks measure images and a step together, and train the same run as one would with these settings."""
    words = [*_words(photos), *TINY[:-2], "--minutes", "0.02", "--batch_size_per_gpu", "4"]
    two = launch("train_ssl.py", *words, "--output_dir", tmp_path / "two", ranks=2)
    assert result_of(two)["status"] == "finished", two.stderr
    assert "s a step, measured" in two.stderr


def test_binary_sets_are_measured_too(photos: Path):
    recipe = cli.parse(Recipe, ["--dataset", "shapes", "--recipe", "auto", "--epochs", "1"])
    recipe = _auto.fill_in(recipe, no_timing)
    assert recipe.backbone.arch == "cct_2_3x2_32" and recipe.backbone.image_size == 32


@pytest.mark.parametrize("arch", ["resnet8", "swin", "compact", "cct_2_3x2_32", "timm:resnet10t"])
def test_another_backbone_keeps_its_own_sizes(photos: Path, arch: str):
    words = ["--recipe", "auto", "--arch", arch, "--epochs", "3", "--device", "cpu"]
    recipe = cli.parse(Recipe, [*_words(photos), *words])
    recipe = _auto.fill_in(recipe, no_timing)
    assert recipe.backbone.stem is None and recipe.backbone.patch_size is None
    assert recipe.backbone.num_layers is None and recipe.backbone.embed_dim is None
    assert recipe.crops.blur_sigma == (0.014, 0.286)


def test_dropped_patches_make_it_a_vit(photos: Path):
    words = [*_words(photos), "--patch_drop_rate", "0.5", "--epochs", "1", "--device", "cpu"]
    recipe = _auto.fill_in(cli.parse(Recipe, words), no_timing)
    assert recipe.backbone.arch == "vit"


@pytest.mark.parametrize("words", [("--accumulate", "64"), ("--batch_size_per_gpu", "1")])
def test_a_part_of_one_image_is_compared_with_none(photos: Path, words: tuple[str, ...]):
    recipe = _auto.fill_in(parsed(photos, "--epochs", "1", *words), no_timing)
    assert recipe.optimisation.batch_size_per_gpu == 1
    assert recipe.method.koleo_weight == recipe.method.contrast_weight == 0


def wanted(recipe: Recipe | Finetuning) -> bool:
    return _auto.wanted(recipe.given, recipe.data.dataset)


def test_ones_own_images_without_a_recipe_are_auto(photos: Path):
    assert wanted(parsed(photos))
    assert not wanted(parsed(photos, "--recipe", "published"))
    assert not wanted(cli.parse(Recipe, ["--dataset", "cifar10"]))
    assert wanted(cli.parse(Recipe, ["--dataset", "cifar10", "--recipe", "auto"]))
    assert not wanted(Recipe())


def test_a_recipe_file_is_not_auto(photos: Path, tmp_path: Path):
    file = tmp_path / "own.yaml"
    file.write_text("lr: 0.5\n")
    recipe = parsed(photos, "--recipe", str(file))
    assert _auto.fill_in(recipe, no_timing) is recipe


def test_minutes_without_auto_are_refused():
    recipe = cli.parse(Recipe, ["--dataset", "shapes", "--minutes", "2"])
    with pytest.raises(ValueError, match="--minutes chooses epochs"):
        _auto.fill_in(recipe, no_timing)


def test_minutes_and_epochs_are_not_both_stated(photos: Path):
    with pytest.raises(ValueError, match="leave it or --epochs out"):
        _auto.fill_in(parsed(photos, "--minutes", "1", "--epochs", "2"), no_timing)


def test_a_wrong_name_is_said_before_images_are_read(tmp_path: Path):
    words = ["--dataset", "image_folder", "--datapath", str(tmp_path / "none"), "--arch", "vti"]
    with pytest.raises(ValueError, match="--arch vti: no such backbone"):
        _auto.fill_in(cli.parse(Recipe, words), no_timing)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--image_size", "32", "60", "--patch_size", "4"), "cannot take crops of 16 x 30 px"),
        (("--image_size", "32", "60", "--patch_size", "8"), "patch size 8 does not divide"),
        (("--patch_size", "7"), "patch size 7 does not divide image size 32"),
    ],
)
def test_sizes_that_clash_are_said_before_images_are_decoded(
    photos: Path, monkeypatch, words, said: str
):
    monkeypatch.setattr(_auto, "pretraining_images", None)
    with pytest.raises(ValueError, match=said):
        _auto.fill_in(parsed(photos, *words), no_timing)


def test_a_folder_of_stage_two_is_left_to_its_own_message(photos: Path):
    folder = photos.parent / "run"
    folder.mkdir()
    checkpoint.save_newest(Checkpoint(Metadata("finetune", recipe={"arch": None}), {}), folder)
    recipe = _auto.fill_in(parsed(photos, "--epochs", "1"), no_timing)
    assert recipe.backbone.arch == "vit"


def test_slow_steps_are_timed_as_long_on_every_rank(monkeypatch):
    """Whether a further step is timed is a common decision: steps hold collectives."""
    asked = []
    monkeypatch.setattr(_auto.ranks, "all_true", lambda holds: bool(asked.append(holds)))
    steps = iter(range(100))
    _auto.timed_step(steps, torch.device("cpu"))
    assert (
        len(asked) == 2 and next(steps) == 2
    )  # one uncounted, one counted, although they were fast


def test_other_commands_refuse_a_named_recipe():
    from multicrop.config.check import Recipe as Check

    with pytest.raises(cli.UsageError, match="auto is not for this command"):
        cli.parse(Check, ["photos", "--recipe", "auto"])


def test_a_timed_run_resumes_bit_equal(photos: Path, monkeypatch):
    """The epochs that a measured speed gave are kept, whatever the speed is when the run goes on."""
    whole, cut = photos.parent / "whole", photos.parent / "cut"

    def run(folder: Path, seconds: float, *words: str) -> dict:
        monkeypatch.setattr(pretrain, "time_step", lambda *_: seconds)
        recipe = parsed(photos, "--minutes", "0.1", *words)
        words_of_folder = ["--output_dir", str(folder)]
        recipe = cli.parse(
            Recipe, [*_words(photos), *TINY, "--minutes", "0.1", *words, *words_of_folder]
        )
        return pretrain.run(recipe)

    result = run(whole, seconds=0.5)
    assert result["status"] == "finished" and result["steps"] > 4
    assert run(cut, 0.5, "--max_steps", "3")["status"] == "stopped"
    assert run(cut, 0.01)["steps"] == result["steps"]
    one, other = (checkpoint.load(folder / "checkpoint.pt") for folder in (whole, cut))
    for name, value in one.state["teacher"].items():
        assert value.equal(other.state["teacher"][name]), name
    rows = [json.loads(line) for line in (cut / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == result["steps"]


def _words(photos: Path) -> list[str]:
    return ["--dataset", "image_folder", "--datapath", str(photos)]


def test_the_step_is_timed_on_networks_of_their_own(photos: Path):
    recipe = _auto.fill_in(parsed(photos, "--epochs", "1"), no_timing)
    images = pretrain.pretraining_images(recipe)[0]
    assert 0 < pretrain.time_step(recipe, images, torch.device("cpu"), None) < 5


CIFAR = Finetuning(data=DataSettings(dataset="cifar10"))


def learned(kind: str = "ssl", **settings) -> Pretrained:
    backbone = {"arch": "vit", "standardise": settings.pop("standardise", False)}
    return Pretrained(metadata=Metadata(kind, recipe=settings, backbone=backbone))


def test_stage_two_does_not_mirror_what_stage_one_did_not():
    assert inherited_augmentation(CIFAR, learned(crop_flip=0.0)).flip == 0
    assert inherited_augmentation(CIFAR, learned(crop_flip=0.5)).flip is None
    stated = replace(CIFAR, augmentation=Augmentation(flip=0.5))
    assert inherited_augmentation(stated, learned(crop_flip=0.0)).flip == 0.5


def test_borders_do_not_change_what_a_standardising_network_sees():
    """Black borders darken training images alone: 51 % in place of 94 % on steel defects (LOG.md)."""
    assert inherited_augmentation(CIFAR, learned(standardise=True)).padding_fill == "edge"
    assert inherited_augmentation(CIFAR, learned()).padding_fill == "black"
    own = replace(CIFAR, backbone=BackboneSettings(standardise=True))
    assert inherited_augmentation(own, Pretrained()).padding_fill == "edge"
    photos = replace(CIFAR, data=DataSettings(dataset="image_folder"))
    assert inherited_augmentation(photos, Pretrained()).padding_fill == "edge"
    stated = replace(CIFAR, augmentation=Augmentation(padding_fill="black"))
    assert inherited_augmentation(stated, learned(standardise=True)).padding_fill == "black"
