"""Every recipe file parses with the script that its header names, and its header says what to expect."""

import functools
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from locality_guidance import training_pieces

from multicrop import cli
from multicrop.commands._finetune_data import backbone_options, images_per_part
from multicrop.config import finetune, pretrain
from multicrop.config.auto import ImageFacts, network_choices, run_choices
from multicrop.config.flags import to_flags
from multicrop.engine.schedule import learning_rate
from multicrop.registry import backbone, source
from multicrop.ssl.encoder import check_sizes
from multicrop.supervised.augmentation import (
    TrainTransform,
    check_policy,
    colours,
    flip_probability,
)
from multicrop.supervised.mixing import Mixing

GOLDEN = Path(__file__).parent / "golden"

PARAMETERS = {  # of the published backbones, without classifier
    ("vit", 32): 2_695_680, ("vit", 64): 2_723_328, ("swin", 32): 7_044_762, ("swin", 64): 7_048_218,
    ("cait", 32): 8_051_520, ("cait", 64): 8_079_168,
}  # fmt: skip
SCRIPTS = {"train_ssl.py": pretrain.Recipe, "finetune.py": finetune.Recipe}


PARTS = sorted((ROOT / "recipes").glob("_*.yaml"))
PATHS = sorted({*(ROOT / "recipes").glob("*.yaml")} - {*PARTS})
RANDAUGMENT = "rand-m9-mstd0.5-inc1"


@functools.cache
def parsed(path):
    """A recipe file, read by the script that its header names."""
    script, rest = re.search(r"# Command: .*?(\w+\.py) (.*)", path.read_text()).groups()
    start = ["--scratch"] if script == "finetune.py" else []
    start += ["--teacher", "somewhere"] if "--teacher" in rest else []
    return cli.parse(SCRIPTS[script], ["--recipe", str(path), *start])


def stage_two(name):
    return parsed(ROOT / "recipes" / f"{name}.yaml")


def flags(recipe) -> SimpleNamespace:
    """Every setting by its flag's name."""
    return SimpleNamespace(**to_flags(recipe))


def rates(r, epochs=None):
    """The learning rate that a recipe uses in each epoch, with 3 steps in each."""
    course = r.optimisation.learning_rate()
    epochs = epochs or r.optimisation.epochs
    return [learning_rate(3 * epoch, 3, **course) for epoch in range(epochs)]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_recipes_parse_and_state_command_and_result(path):
    """What was published and what this code reached, or that nobody has measured it; README.md has that of shapes."""
    text = path.read_text()
    command = re.search(r"# Command: .*?(\w+\.py) .*--recipe (\S+)", text)
    assert command and command[2] == f"recipes/{path.name}"
    for stated in (
        (r"Expected: ",) if path.stem.startswith("shapes_") else (r"Published[:,] ", r"Ours: ")
    ):
        assert re.search(rf"^#.*\b{stated}\S", text, re.MULTILINE), stated
    parsed(path)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "recipes").glob("gani2022_*_ssl.yaml")), ids=lambda path: path.stem
)
def test_published_stage_one_recipes_build_the_published_networks(path):
    recipe = parsed(path)
    r = flags(recipe)
    assert (r.epochs, r.warmup_epochs, r.out_dim, r.lr, r.batch_size_per_gpu) == (
        200,
        30,
        1024,
        1e-4,
        256,
    )
    assert r.teacher_drop_path and r.precision == "fp32" and r.teacher_temp == 0.07
    assert source(r.dataset).entry in path.stem
    body = backbone(**recipe.backbone.options(), in_channels=3)
    check_sizes(body, 3, r.image_size, r.image_size // 2)
    assert sum(p.numel() for p in body.parameters()) == PARAMETERS[r.arch, r.image_size]


def test_the_published_finetuning_recipe_has_what_the_defaults_mend():
    recipe = stage_two("gani2022_finetune")
    r, flip = flags(recipe), flip_probability(recipe.augmentation, "svhn")
    assert (r.val_fraction, r.re_fill, flip, r.precision) == (0.0, "published", 0.5, "fp32")


def test_the_scratch_baseline_is_the_finetuning_recipe():
    scratch, finetuned = flags(stage_two("gani2022_scratch")), flags(stage_two("gani2022_finetune"))
    assert (
        (scratch.lr, scratch.epochs, scratch.ra)
        == (finetuned.lr, finetuned.epochs, finetuned.ra)
        == (1e-3, 100, 3)
    )


STAGE_ONE = re.compile(r"_ssl|recommended")
STAGE_TWO = [path.stem for path in PATHS if not STAGE_ONE.search(path.stem)]
TIMM = [name for name in STAGE_TWO if re.match(r"dhvt|localvit|cct_(?!light)|locality|logit", name)]


@pytest.mark.parametrize("name", STAGE_TWO)
def test_backbones_and_data_sets_exist(name):
    recipe = stage_two(name)
    r = flags(recipe)
    source(r.dataset or "shapes")
    if r.arch:
        with torch.device("meta"):
            body = backbone(**backbone_options(recipe, {}, 32, 3))
        named = [parameter for parameter, _ in body.named_parameters()]
        for pattern in r.no_decay:
            assert name.startswith(("localvit_t2t", "loc", "logit")) or any(
                pattern.strip("*") in n for n in named
            )


@pytest.mark.parametrize("name", TIMM)
def test_recipes_of_timm_style_augment_as_published(name):
    recipe = stage_two(name)
    r = flags(recipe)
    mean, std = colours(recipe.augmentation, (0.5,) * 3, (0.2,) * 3)
    entry = source(r.dataset).entry
    transform = TrainTransform.from_recipe(recipe.augmentation, entry, r.image_size, mean, std)
    policy = transform.policy
    assert (policy.magnitude, policy.deviation, policy.count, policy.increasing) == (
        9,
        0.5,
        2,
        True,
    )
    assert transform.fill is None and r.val_fraction == 0 and r.ra == 1
    if transform.erase:
        erase = transform.erase
        assert (erase.probability, erase.min_aspect, erase.log_aspect) == (0.25, 0.3, True)
        assert erase.max_area == pytest.approx(1 / 3) and erase.min_area == 0.02
    scale = (0.8, 1.0) if name.startswith("cct") and "imagenet" not in name else (0.08, 1.0)
    assert (transform.cut.scale if transform.cut else None) == (
        None if "cifar_patch" in name else scale
    )
    assert bool(transform.erase) == (name != "cct_7_3x1_cifar10_300")


@pytest.mark.parametrize("name", TIMM)
def test_recipes_mix_as_published(name):
    mixing = Mixing.from_recipe(stage_two(name).augmentation)
    if name.startswith(("locality", "logit")):
        assert mixing.cutmix is None and mixing.mixup is None
    else:
        assert (mixing.cutmix, mixing.mixup, mixing.probability, mixing.switch) == (
            1.0,
            0.8,
            1.0,
            0.5,
        )


@pytest.mark.parametrize(
    ("name", "recorded"),
    [("dhvt_tiny_cifar_patch4", "cifar"), ("dhvt_tiny_domainnet", "domainnet"), ("dhvt_tiny_imagenet", "imagenet"),
     ("dhvt_finetune", "finetune")],
)  # fmt: skip
def test_dhvt_learns_at_the_recorded_rates(name, recorded):
    golden = np.load(GOLDEN / "dhvt" / "recipe_numbers.npz")[f"lr/{recorded}"]
    assert np.allclose(rates(stage_two(name)), golden, rtol=1e-6)


def test_locality_guidance_learns_at_the_recorded_rates(recordings):
    golden = training_pieces(recordings)
    for name in STAGE_TWO:
        if name.startswith("locality_guidance_"):
            recorded = "lr/sgd_cos_nowarm" if "resnet" in name else "lr/adamw_cos_warm20"
            assert np.allclose(rates(stage_two(name)), golden[recorded], rtol=1e-6, atol=1e-12), (
                name
            )


@pytest.mark.parametrize(
    ("name", "expected"),  # epoch: rate
    [("cct_7_3x1_cifar10_300", {0: 1e-5, 1: 6.4e-5, 9: 4.96e-4, 10: 5.485e-4, 100: 4.15e-4, 300: 1e-5, 309: 1e-5}),
     ("cct_7_3x1_cifar100_1500", {0: 1e-6, 10: 6.99924e-4, 750: 3.55e-4, 1500: 1e-5}),
     ("localvit_tiny", {0: 1e-6, 1: 1e-6, 2: 2.008e-4, 6: 9.993e-4, 299: 1.011e-5})],
)  # fmt: skip
def test_other_recipes_learn_at_the_published_rates(name, expected):
    r = stage_two(name)
    found = rates(r, r.optimisation.all_epochs)
    assert len(found) == r.optimisation.epochs + (10 if name.startswith("cct") else 0)
    for epoch, rate in expected.items():
        assert found[epoch] == pytest.approx(rate, rel=2e-3), epoch


def test_mixing_ends_where_published():
    augmentation = stage_two("cct_7_3x1_cifar10_300").augmentation
    assert Mixing.from_recipe(augmentation, 174).probability == 1
    assert Mixing.from_recipe(augmentation, 175).probability == 0
    augmentation = stage_two("cct_7_3x1_cifar100_300").augmentation
    assert Mixing.from_recipe(augmentation, 299).probability == 1


def test_repeated_augmentation_does_not_mix_copies():
    r = stage_two("dhvt_small_cifar_patch2")
    repeats = r.optimisation.repeats
    assert repeats == 3 and Mixing.from_recipe(r.augmentation, 0, repeats).distance == 4
    assert stage_two("dhvt_finetune").optimisation.repeats == 1
    assert images_per_part(r, 4) == 64
    with pytest.raises(
        ValueError, match="is 4 images each, and mixing with --repeats 3 takes them by 8"
    ):
        images_per_part(r, 64)


@pytest.mark.parametrize(
    "name", [name for name in STAGE_TWO if name.startswith("locality_guidance_")]
)
def test_guidance_is_at_the_published_blocks(name):
    recipe = stage_two(name)
    r = flags(recipe)
    if name.endswith("_base") or "resnet" in name:
        assert r.guidance == "none" and not r.ls
        return
    blocks = {
        "t2t_vit_7": (0, 3, 6),
        "t2t_vit_14": (0, 7, 13),
        "pvt_tiny": (0, 3, 7),
        "pvtv2_b0": (0, 3, 7),
    }
    expected = tuple(f"blocks.{block}" for block in blocks.get(r.arch, (0, 6, 11)))
    assert (tuple(r.guide_student), tuple(r.guide_teacher)) == (expected, ("s1", "s2", "s3"))
    assert (r.guidance, r.guide_weight, r.teacher_image_size, r.teacher_bn) == (
        "linear",
        2.5,
        32,
        "batch",
    )
    with torch.device("meta"):
        assert {*expected} <= {*backbone(**backbone_options(recipe, {}, 224, 3)).maps}


@pytest.mark.parametrize(("name", "weight"), [("deit", 10), ("t2t_7", 9), ("pit", 9), ("pvt", 9)])
def test_logit_standardisation_has_the_published_weights(name, weight):
    r = flags(stage_two(f"logit_standardisation_{name}"))
    assert (r.distillation, r.kd_weight, r.kd_temperature, r.ce_weight) == (
        "soft",
        weight,
        2.0,
        0.5,
    )
    assert r.kd_standardise and r.guidance == "none"


@pytest.mark.parametrize(
    ("words", "message"),
    [("--aa_policy mnist", "--aa_policy mnist: take auto, "), ("--aa_policy rand-x", "no RandAugment is written"),
     ("--crop_scale 0.9 0.1", "--crop_scale 0.9 0.1: must be two shares"), ("--crop_ratio 0 1", "--crop_ratio 0 1: "),
     ("--crop_pct 0", "--crop_pct 0"), ("--mixup_switch_prob 2", "--mixup_switch_prob 2"),
     ("--mixup_off_epoch -1", "--mixup_off_epoch -1"), ("--color_jitter 3", "--color_jitter 3")],
)  # fmt: skip
def test_wrong_augmentation_is_one_line(words, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_policy(cli.parse(finetune.Recipe, ["--scratch", *words.split()]).augmentation)


def test_jitter_is_off_beside_a_policy_as_published():
    r = cli.parse(finetune.Recipe, ["--scratch", "--color_jitter", "0.4"])
    assert (
        TrainTransform.from_recipe(r.augmentation, "cifar10", 32, (0.5,), (0.2,)).color_jitter == 0
    )
    r = cli.parse(finetune.Recipe, ["--scratch", "--color_jitter", "0.4", "--aa", "false"])
    assert (
        TrainTransform.from_recipe(r.augmentation, "cifar10", 32, (0.5,), (0.2,)).color_jitter
        == 0.4
    )


@pytest.mark.parametrize(("size", "images"), [("tiny", 5000), ("small", 20_000), ("base", 50_000)])
def test_recommended_recipes_are_what_auto_chooses_for_photographs(size, images):
    recipe = flags(parsed(ROOT / "recipes" / f"recommended_{size}.yaml"))
    facts = ImageFacts(images, side=32, brightness_share=0.3, mirror_share=0.5)
    ranks = 2 if size == "base" else 1
    recipe.batch_size_per_gpu *= ranks
    choices = [
        *network_choices(facts),
        *run_choices(images, recipe.batch_size_per_gpu, recipe.epochs, ""),
    ]
    for choice in choices:
        if choice.name not in ("saveckp_freq", "knn_freq", "standardise"):
            found = getattr(recipe, choice.name)
            found = list(found) if isinstance(found, (list, tuple)) else found
            wanted = list(choice.value) if isinstance(choice.value, tuple) else choice.value
            assert found == wanted, choice.name
