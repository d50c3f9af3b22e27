"""Flags of guidance and distillation: what goes together, what does not, and what each message says."""

from types import SimpleNamespace

import pytest
import torch
from conftest import recipe

from multicrop.commands._classifier import check_teacher_classes
from multicrop.config.finetune import Recipe, check_stored_maps
from multicrop.supervised.distillation import LogitDistillation
from multicrop.weights.pretrained import Pretrained

GUIDED = {"teacher": "t.pt", "guidance": "linear"}
DISTILLED = {"teacher": "t.pt", "distillation": "soft"}
OFFLINE = {"guidance": "linear", "guidance_features": "features", "aa": False, "mix_prob": 0.0}


@pytest.mark.parametrize(
    "values",
    [
        {}, GUIDED, DISTILLED, GUIDED | DISTILLED, OFFLINE, OFFLINE | DISTILLED,
        GUIDED | {"guide_student": ("blocks.0",)}, GUIDED | {"guide_teacher": ("s1", "s2")},
        GUIDED | {"guide_student": ("a", "b"), "guide_teacher": ("s1", "s2"), "teacher_arch": "resnet56"},
        DISTILLED | {"distillation": "decoupled", "cm": False, "mu": False},
        {**OFFLINE, "mix_prob": 0.5, "cm": False, "mu": False},
    ],
)  # fmt: skip
def test_what_goes_together(values):
    flags = recipe(Recipe, **values).teaching
    assert flags.guides == ("guidance" in values) and flags.distils == ("distillation" in values)
    assert flags.runs_teacher == ("teacher" in values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"guidance": "linear"}, r"--guidance linear: needs --teacher FILE \(or --guidance_features FOLDER\)"),
        ({"distillation": "soft"}, "--distillation soft: needs --teacher FILE"),
        (OFFLINE | {"distillation": "hard"}, "--distillation hard: needs --teacher FILE"),
        ({"teacher": "t.pt"}, "--teacher t.pt: teaches nothing: give --guidance or --distillation"),
        ({"teacher_arch": "resnet56"}, "--teacher_arch resnet56: needs --teacher FILE"),
        (OFFLINE | {"teacher_image_size": 32}, "--teacher_image_size 32: needs --teacher FILE"),
        (DISTILLED | {"guidance_features": "f"}, "--guidance_features f: needs --guidance"),
        (DISTILLED | {"guide_teacher": ("s1",)}, "--guide_teacher s1: needs --guidance"),
        ({"guide_student": ("blocks.0", "blocks.1")}, "--guide_student blocks.0 blocks.1: needs --guidance"),
        (GUIDED | {"guide_student": ("a",), "guide_teacher": ("s1", "s2")}, "1 maps in --guide_student and 2 in"),
        (GUIDED | {"guide_weight": -1.0}, "--guide_weight -1.0: must not be negative"),
        (DISTILLED | {"kd_weight": -1.0}, "--kd_weight -1.0: must not be negative"),
        (DISTILLED | {"kd_floor": -0.1}, "--kd_floor -0.1: must not be negative"),
        (DISTILLED | {"ce_weight": -0.5}, "--ce_weight -0.5: must not be negative"),
        (DISTILLED | {"kd_temperature": 0.0}, "--kd_temperature 0.0: must be above 0"),
        (GUIDED | {"teacher_image_size": 0}, "--teacher_image_size 0: must be at least 1"),
        (DISTILLED | {"distillation": "decoupled"}, "--distillation decoupled: needs one label for each image: --mix"),
        (OFFLINE | {"aa": True, "aa_policy": "rand-m9-mstd0.5-inc1"}, "--aa_policy rand-m9-mstd0.5-inc1 rotates"),
        (OFFLINE | {"mix_prob": 0.5}, "but CutMix and MixUp would mix images alone: --mix_prob 0"),
        (OFFLINE | {"mix_prob": 1.0, "cm": False}, "but MixUp would mix images alone: --mix_prob 0"),
    ],
)  # fmt: skip
def test_what_does_not(values, message):
    with pytest.raises(ValueError, match=message) as error:
        recipe(Recipe, **values)
    assert "\n" not in str(error.value)


def test_stored_maps_follow_cuts_flips_colours_and_erasing():
    settings = recipe(Recipe, **OFFLINE, crop_scale=(0.08, 1.0), color_jitter=0.4, re=0.25)
    check_stored_maps(settings.augmentation)


def test_the_term_for_logits():
    assert LogitDistillation.from_recipe(recipe(Recipe, **GUIDED).teaching) is None
    flags = recipe(
        Recipe, **DISTILLED, kd_weight=10.0, kd_temperature=3.0, kd_standardise=False, kd_floor=0.0
    )
    term = LogitDistillation.from_recipe(flags.teaching)
    assert (term.kind, term.weight, term.temperature, term.standardised, term.floor) == (
        "soft",
        10.0,
        3.0,
        False,
        0.0,
    )


def test_a_teacher_of_other_classes_may_guide_but_not_distil():
    head = {"weight": torch.zeros(100, 8), "bias": torch.zeros(100)}
    file, classes = Pretrained("t.pt", head=head), tuple("abc")
    check_teacher_classes(recipe(Recipe, **GUIDED).teaching, file, classes, "letters")
    with pytest.raises(ValueError, match=r"t.pt tells 100 classes apart, but letters has 3"):
        check_teacher_classes(recipe(Recipe, **DISTILLED).teaching, file, classes, "letters")
    with pytest.raises(
        ValueError, match=r"t.pt has no classifier, and --distillation is of its logits"
    ):
        check_teacher_classes(
            recipe(Recipe, **DISTILLED).teaching,
            SimpleNamespace(path="t.pt", head={}),
            classes,
            "letters",
        )
