"""The locality-guidance loss against recorded numbers, and what its parts promise."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from locality_guidance import (
    COMMITTED,
    SHARED,
    classifier,
    close,
    full_size_images,
    part,
    recorded,
    rule_filled,
)

from multicrop.supervised.guidance import (
    Guidance,
    attention,
    match_sizes,
    resize_maps,
    similarity,
    teacher_images,
)

GROUPS = {
    "linear_flat": "linear",
    "linear_pyramid": "linear",
    "attention": "attention",
    "similarity": "similarity",
}


def maps(seed: int, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def check_recorded(tensors: dict[str, torch.Tensor], transform: str) -> None:
    """Every recorded pair's loss, their sum, and the gradients of the sum."""
    indices = sorted(part(tensors, "pair_loss/"))
    teacher = [tensors[f"teacher/{index}"] for index in indices]
    student = [tensors[f"student/{index}"].clone().requires_grad_() for index in indices]
    guidance = Guidance(
        [own.shape[1] for own in student], [other.shape[1] for other in teacher], transform
    )
    for place, index in enumerate(indices if transform == "linear" else ()):
        guidance.projections[place].load_state_dict(part(tensors, f"proj/{index}."))
    for loss, index in zip(guidance.pair_losses(student, teacher), indices, strict=True):
        close(loss, tensors[f"pair_loss/{index}"])
    loss = guidance(student, teacher)
    close(loss, tensors.get("loss", sum(part(tensors, "pair_loss/").values())))
    loss.backward()
    for place, index in enumerate(indices):
        close(student[place].grad, tensors[f"grad_student/{index}"], 1e-8)
        for name, gradient in part(tensors, f"grad_proj/{index}.").items():
            close(getattr(guidance.projections[place], name).grad, gradient, 1e-6)


@pytest.mark.parametrize(("group", "transform"), GROUPS.items())
def test_recorded_pairs(group, transform):
    check_recorded(part(recorded(COMMITTED / "guidance_loss.npz"), f"{group}/"), transform)


@pytest.mark.parametrize(("group", "transform"), GROUPS.items())
def test_all_recorded_pairs(shared_golden, group, transform):
    tensors = part(recorded(shared_golden / SHARED / "guidance_loss.safetensors"), f"{group}/")
    assert len(part(tensors, "pair_loss/")) == 3
    check_recorded(tensors, transform)


def test_common_size_is_the_larger_one_on_either_axis():
    wide, tall = maps(0, (1, 2, 3, 8), (1, 5, 6, 4))
    wide, tall = match_sizes(wide, tall)
    assert wide.shape == (1, 2, 6, 8) and tall.shape == (1, 5, 6, 8)
    assert resize_maps(tall, (6, 8)) is tall


def test_equal_features_cost_nothing_and_the_pairs_add_up():
    (x,) = maps(0, (3, 4, 5, 5))
    for transform in ("attention", "similarity"):
        guidance = Guidance([4, 4], [4, 4], transform)
        assert not list(guidance.parameters())
        assert guidance([x, x], [x, x]) == 0
        other = maps(1, (3, 4, 5, 5))[0]
        close(guidance([other, other], [x, x]), 2 * guidance.pair_losses([other, x], [x, x])[0])


def test_attention_ignores_strength_and_sign_and_similarity_ignores_strength():
    (x,) = maps(0, (3, 4, 2, 2))
    close(attention(-3 * x), attention(x))
    close(similarity(3 * x), similarity(x))
    close(attention(x).square().sum(1), torch.ones(3))
    close(similarity(x).square().sum(1), torch.ones(3))


def test_the_teacher_and_its_maps_get_no_gradient():
    student, teacher = (x.requires_grad_() for x in maps(0, (2, 3, 4, 4), (2, 5, 2, 2)))
    guidance = Guidance([3], [5])
    guidance([student], [teacher]).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in guidance.parameters())


def test_squares_are_added_in_full_precision_under_autocast():
    student, teacher = maps(0, (2, 3, 8, 8), (2, 5, 8, 8))
    for transform in ("linear", "attention", "similarity"):
        guidance = Guidance([3], [5], transform)
        exact = guidance([student], [teacher])
        with torch.autocast("cpu", torch.bfloat16):
            rounded = guidance([student], [teacher])
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(
            rounded, exact, rtol=0 if transform != "linear" else 1e-2, atol=0
        )


def test_teacher_sees_every_seventh_pixel_of_a_published_image():
    (x,) = maps(0, (2, 3, 224, 224))
    close(teacher_images(x), x[..., 3::7, 3::7])
    close(teacher_images(x, 56), F.interpolate(x, (56, 56), mode="bilinear"))


@pytest.mark.parametrize(("student", "teacher"), [([8, 8], [16]), ([], [])])
def test_maps_that_make_no_pairs(student, teacher):
    with pytest.raises(ValueError, match="do not make pairs"):
        Guidance(student, teacher)


def test_maps_given_must_be_as_many_as_built_for():
    guidance = Guidance([3, 3], [5, 5])
    with pytest.raises(
        ValueError, match="1 maps of the student and 2 of the teacher do not make pairs"
    ):
        guidance(maps(0, (2, 3, 4, 4)), maps(0, (2, 5, 4, 4), (2, 5, 4, 4)))


def test_unknown_transform():
    with pytest.raises(
        ValueError, match="no guidance is called 'cosine'; take linear, attention, similarity"
    ):
        Guidance([3], [5], "cosine")


PUBLISHED = [
    *[
        ("deit_tiny", "deit/deit-ti_c100"),
        ("pit_tiny", "pit/pit-ti_c100"),
        ("convit_tiny", "convit/convit-ti_c100"),
    ],
    *[
        ("t2t_vit_7", "t2t/t2t-7_c100"),
        ("t2t_vit_14", "t2t/t2t-14_c100"),
        ("cvt_13", "cvt/cvt-13_c100"),
    ],
    *[("pvt_tiny", "pvt/pvt-ti_c100"), ("pvtv2_b0", "pvtv2/pvtv2-b0_c100")],
]


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "config"), PUBLISHED)
def test_published_networks_guided_by_resnet56(shared_golden, tmp_path, arch, config):
    """The published route: 224 px images, a ResNet-56 in either mode on their 32 px reduction, projections."""
    folder = shared_golden / SHARED
    tensors = recorded(folder / "full_size.safetensors")
    manifest = json.loads((folder / "full_size_manifest.json").read_text())
    state = rule_filled(manifest[config]["keys"])
    if arch.startswith("t2t"):
        del state["pos_embed"]  # a sinusoid
    student, _ = classifier(arch, state, tmp_path)
    teacher, _ = classifier(
        "resnet56", rule_filled(manifest["resnet/r-56_c100"]["keys"], 50_000), tmp_path
    )
    names, stages = (
        [f"blocks.{index}" for index in manifest[config]["student_index"]],
        ("s1", "s2", "s3"),
    )
    guidance = Guidance(
        [student.maps[name].width for name in names], [teacher.maps[name].width for name in stages]
    )
    for index, projection in enumerate(guidance.projections):
        draw = np.random.RandomState(90_000 + index).standard_normal
        shape = projection.weight.shape
        projection.weight.data = torch.from_numpy(draw(shape) / shape[1] ** 0.5).float()
        projection.bias.data = torch.from_numpy(0.1 * draw(shape[0])).float()
    x = full_size_images()
    with torch.no_grad():
        own = student.forward_maps(x)[1]
        for mode in ("eval", "train"):
            other = teacher.train(mode == "train").forward_maps(teacher_images(x))[1]
            loss = guidance([own[name] for name in names], [other[name] for name in stages])
            torch.testing.assert_close(
                loss, tensors[f"{config}_ours/guidance_teacher_{mode}"], rtol=1e-4, atol=0
            )
