"""The frozen teacher: what it sees, says and keeps."""

import pytest
import torch
from conftest import save_content
from locality_guidance import SHARED, close, part, recorded
from torch import nn

from multicrop import registry
from multicrop.commands._networks import build_teacher_backbone
from multicrop.supervised.classifier import Classifier
from multicrop.supervised.teacher import Teacher, renormalisation
from multicrop.weights import pretrained


def resnet(classes: int = 5) -> Classifier:
    torch.manual_seed(0)
    model = Classifier(registry.backbone("resnet", 16, depth=8), classes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def images(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def buffers(teacher: Teacher) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in teacher.named_buffers()}


def test_logits_and_maps_of_the_images_at_its_own_size():
    model = resnet().eval()
    teacher = Teacher(model, 16, ("s3", "s1"))
    x = images(2, 3, 32, 32)
    taught = teacher(x)
    small = nn.functional.interpolate(x, (16, 16), mode="bilinear")
    features, maps = model.backbone.forward_maps(small)
    close(taught.logits, model.head(features).detach())
    assert [tuple(found.shape) for found in taught.maps] == [(2, 64, 4, 4), (2, 16, 16, 16)]
    for ours, name in zip(taught.maps, ("s3", "s1"), strict=True):
        close(ours, maps[name].detach())
    assert Teacher(model, 16)(x).maps == []


def test_nothing_has_a_gradient():
    teacher = Teacher(resnet(), 16, ("s1",))
    x = images(2, 3, 16, 16).requires_grad_()
    taught = teacher(x)
    assert not taught.logits.requires_grad and not taught.maps[0].requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_running_statistics_never_change_and_an_image_is_alone():
    teacher = Teacher(resnet(), 16, ("s1",))
    student = nn.ModuleDict({"teacher": teacher}).train()
    before, x = buffers(teacher), images(4, 3, 16, 16)
    taught = student["teacher"](x)
    assert not teacher.training and not any(module.training for module in teacher.modules())
    assert all(torch.equal(value, before[name]) for name, value in teacher.named_buffers())
    close(teacher(x[:1]).maps[0], taught.maps[0][:1])


def test_batch_statistics_as_published_drift_in_either_mode_of_the_parent():
    teacher = Teacher(resnet(), 16, ("s1",), batch_norm="batch")
    x = images(4, 3, 16, 16)
    first = teacher(x)
    before = buffers(teacher)
    nn.ModuleDict({"teacher": teacher}).eval()
    close(teacher(x).maps[0], first.maps[0])  # the statistics that drift are not used
    changed = {
        name.rpartition(".")[2]
        for name, value in teacher.named_buffers()
        if not torch.equal(value, before[name])
    }
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}
    assert (teacher(x[:2]).maps[0] - first.maps[0][:2]).abs().max() > 0.01


def test_batch_statistics_leave_dropout_off():
    network = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3))
    Teacher(network, 8, batch_norm="batch").train()
    assert not network[0].training and network[1].training


def test_a_backbone_alone_has_maps_and_no_logits():
    backbone = resnet().backbone.eval()
    taught = Teacher(backbone, 16, ("s2",))(images(2, 3, 16, 16))
    assert taught.logits is None and taught.maps[0].shape == (2, 32, 8, 8)


def test_both_heads_of_a_distilled_teacher_are_averaged():
    torch.manual_seed(0)
    model = Classifier(
        registry.backbone("deit_tiny_distilled", 32, embed_dim=24, num_layers=2), 5
    ).eval()
    x = images(2, 3, 32, 32)
    close(Teacher(model, 32)(x).logits, model(x).detach())


def test_images_of_another_normalisation_are_brought_to_the_teachers():
    raw = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    own, other = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), ((0.1, 0.2, 0.3), (0.5, 0.5, 0.25))

    def normalised(colours):
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in colours)
        return (raw - mean) / std

    model = resnet()
    direct = Teacher(model, 16, ("s1",))(normalised(other))
    close(
        Teacher(model, 16, ("s1",), normalisations=(own, other))(normalised(own)).maps[0],
        direct.maps[0],
    )
    assert (
        renormalisation(own, own) is None
        and renormalisation(([0.5], [1.0]), ((0.5,), (1.0,))) is None
    )


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_published_resnet56_in_either_mode(shared_golden, tmp_path, mode):
    tensors = recorded(shared_golden / SHARED / "guidance_resnet56.safetensors")
    torch.save({"epoch": 1, "model_state": part(tensors, "state/")}, tmp_path / "model.pyth")
    file = pretrained.read(tmp_path / "model.pyth")
    backbone, size = build_teacher_backbone(file, "resnet56", None, 3)
    assert size == 32
    model = Classifier(backbone, 100)
    model.load_heads(file.head, file.second_head)
    teacher = Teacher(
        model, 32, ("s1", "s2", "s3"), batch_norm="running" if mode == "eval" else "batch"
    )
    taught = teacher(tensors["input"])
    close(taught.logits, tensors[f"{mode}/logits"], 1e-4)
    for index, ours in enumerate(taught.maps):
        theirs = tensors[f"{mode}/feature/{index}"]
        close(ours[: len(theirs)], theirs, 1e-4)


def test_a_run_of_ours_says_how_to_build_its_network(tmp_path):
    model = resnet()
    about = {
        "arch": "resnet20",
        "image_size": 16,
        "depth": 8,
        "in_channels": 3,
        "drop_path_rate": 0.1,
    }
    state = {"kind": "finetune", "model": model.state_dict(), "backbone": about, "recipe": {}}
    save_content(state, tmp_path / "checkpoint.pt")
    file = pretrained.read(tmp_path)
    backbone, size = build_teacher_backbone(file, None, None, 3)
    assert size == 16
    close(backbone.eval()(images(2, 3, 16, 16)), model.backbone.eval()(images(2, 3, 16, 16)))
    assert build_teacher_backbone(file, None, 24, 3)[1] == 24
    same_depth, _ = build_teacher_backbone(file, "ResNet-20", None, 3)
    assert same_depth.state_dict().keys() == backbone.state_dict().keys()
    with pytest.raises(ValueError, match=r"checkpoint.pt was made with resnet20, not with vit"):
        build_teacher_backbone(file, "vit", None, 3)
    with pytest.raises(ValueError, match=r"is for images of 3 channels, and these have 1"):
        build_teacher_backbone(file, None, None, 1)


def test_a_file_that_does_not_say_its_architecture(tmp_path):
    torch.save(resnet().backbone.state_dict(), tmp_path / "x.pt")
    with pytest.raises(
        ValueError, match=r"x.pt does not say its architecture: give --teacher_arch"
    ):
        build_teacher_backbone(pretrained.read(tmp_path / "x.pt"), None, None, 3)
