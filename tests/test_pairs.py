"""Which maps guide which: the published pairs by the rule, names, and what every family of backbones makes of it."""

import pytest
import torch

from multicrop import registry
from multicrop.supervised.pairs import maps_by_stage, pair_maps, spread, stage_ends

PUBLISHED = {
    "deit_tiny": (0, 6, 11), "t2t_vit_7": (0, 3, 6), "t2t_vit_14": (0, 7, 13), "pit_tiny": (0, 6, 11),
    "pvt_tiny": (0, 3, 7), "pvtv2_b0": (0, 3, 7), "convit_tiny": (0, 6, 11), "cvt_13": (0, 6, 12),
}  # fmt: skip  # cvt_13 as published: 0, 6, 11, and 12 is its last block


def backbone(arch: str, size: int = 224):
    with torch.device("meta"):
        return registry.backbone(arch, size)


@pytest.mark.parametrize("arch", PUBLISHED)
def test_published_blocks_are_found(arch):
    student, teacher = pair_maps(backbone(arch), backbone("resnet56", 32))
    assert student == tuple(f"blocks.{index}" for index in PUBLISHED[arch])
    assert teacher == ("s1", "s2", "s3")


@pytest.mark.parametrize("family", registry.names("models"))
def test_every_family_guides_and_is_guided(family):
    with torch.device("meta"):
        network = registry.backbone("timm:resnet18" if family == "timm" else family, 64)
    teacher = registry.backbone("resnet20", 32)
    own, theirs = pair_maps(network, teacher)
    names = [*network.maps]
    places = [names.index(name) for name in own]
    assert (
        len(own) == len(theirs) == 3 and places == sorted(places) and places[-1] == len(names) - 1
    )
    assert stage_ends(network)[-1] == names[-1] and len(pair_maps(teacher, network)[0]) == len(
        stage_ends(network)
    )


def test_numbers_of_stages_that_differ():
    vit, resnet, large = backbone("deit_tiny"), backbone("resnet20", 32), backbone("resnet18", 224)
    assert pair_maps(vit, large) == (
        ("blocks.0", "blocks.4", "blocks.8", "blocks.11"),
        ("s1", "s2", "s3", "s4"),
    )
    assert pair_maps(large, resnet)[0] == ("s1", "s3", "s4")
    assert pair_maps(resnet, large)[0] == ("s1", "s2", "s3", "s3")
    assert spread(vit, 1) == ("blocks.11",) and spread(vit, 2) == ("blocks.0", "blocks.11")
    assert pair_maps(resnet, vit) == (("s3",), ("blocks.11",))


def test_models_of_timm_have_stages_by_stride():
    assert stage_ends(backbone("timm:resnet18")) == ("layer1", "layer2", "layer3", "layer4")
    assert stage_ends(backbone("timm:vit_tiny_patch16_224")) == ("blocks.11",)
    assert [stage[0] for stage in maps_by_stage(backbone("timm:vgg11"))] == [
        f"features.{index}" for index in (9, 14, 19, 20)
    ]
    assert pair_maps(backbone("timm:vit_tiny_patch16_224"), backbone("timm:resnet18"))[0] == (
        "blocks.0", "blocks.4", "blocks.8", "blocks.11",
    )  # fmt: skip


def test_names_win_over_the_rule():
    student, teacher = backbone("deit_tiny"), backbone("resnet20", 32)
    assert pair_maps(student, teacher, ["blocks.3"], ["s2"]) == (("blocks.3",), ("s2",))
    assert pair_maps(student, teacher, teacher_names=["s1", "s3"])[0] == ("blocks.0", "blocks.11")
    assert pair_maps(student, teacher, ["blocks.1", "blocks.1", "blocks.2"])[1] == (
        "s1",
        "s2",
        "s3",
    )


def test_names_that_do_not_fit():
    student, teacher = backbone("deit_tiny"), backbone("resnet20", 32)
    with pytest.raises(
        ValueError, match=r"--guide_teacher s4: ResNet has no map of this name; it has s1, s2, s3$"
    ):
        pair_maps(student, teacher, teacher_names=["s4"])
    with pytest.raises(
        ValueError,
        match=r"--guide_student blocks.12: ViT has no map of this name; it has blocks.0, bl",
    ):
        pair_maps(student, teacher, ["blocks.12"])
    with pytest.raises(
        ValueError,
        match=r"1 maps of the student \(blocks.1\) and 3 of the teacher \(s1, s2, s3\) do not",
    ):
        pair_maps(student, teacher, ["blocks.1"])


def test_a_network_without_maps():
    with pytest.raises(ValueError, match="Linear gives no feature maps, which guidance needs"):
        pair_maps(backbone("deit_tiny"), torch.nn.Linear(1, 1))
    with pytest.raises(
        ValueError, match="--guide_teacher s1: Linear has no map of this name; it has none"
    ):
        pair_maps(backbone("deit_tiny"), torch.nn.Linear(1, 1), teacher_names=["s1"])
