"""Which network of a file is taken: synthetic files in the layouts that other programs write."""

from pathlib import Path

import pytest
import torch
from conftest import recipe
from torch import Tensor, nn

from multicrop import registry
from multicrop.commands import precompute
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.precompute import Recipe as Storing
from multicrop.engine import checkpoint
from multicrop.engine.metadata import Checkpoint, Metadata
from multicrop.weights import candidates, pretrained

VIT = {"embed_dim": 24, "num_layers": 2, "num_heads": 2}
WIDE = {
    "embed_dim": 32,
    "num_layers": 6,
    "num_heads": 2,
}  # a decoder that has more tensors than the encoder

StateDict = dict[str, Tensor]


def vit(**options) -> nn.Module:
    return registry.backbone("vit", 32, **{**VIT, **options})


def filled(value: float, prefix: str = "", network: nn.Module | None = None) -> StateDict:
    """A network's state dict of one value, under a prefix."""
    state = (network or vit()).state_dict()
    return {
        prefix + name: torch.full_like(tensor, value) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def head(prefix: str, classes: int = 3) -> StateDict:
    return {f"{prefix}.weight": torch.ones(classes, 24), f"{prefix}.bias": torch.ones(classes)}


def projection(prefix: str) -> StateDict:
    return {f"{prefix}.0.weight": torch.zeros(8, 24), f"{prefix}.1.running_mean": torch.zeros(8)}


METRICS = {"criterion.weight": torch.ones(3), "accuracy.total": torch.zeros(())}
LIGHTNING = {
    "epoch": 3, "global_step": 12, "pytorch-lightning_version": "2.5.0", "loops": {"fit_loop": {"state_dict": {}}},
    "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
    "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}],
    "lr_schedulers": [], "hyper_parameters": {"lr": 0.1, "backbone": {"name": "vit_tiny"}},
}  # fmt: skip
BYOL = {
    **filled(1, "backbone."), **filled(2, "momentum_backbone."), **projection("projector"),
    **projection("momentum_projector"), **head("classifier"), "queue": torch.zeros(2, 8),
}  # fmt: skip

# Content of a file, the place that is to be taken, the number of classes of its classifier (0: it has none)
LAYOUTS = {
    "ours in timm": ({**filled(1, "backbone."), **head("head")}, "backbone.", 3),
    "model and extra keys": (filled(1, "model.") | METRICS, "model.", 0),
    "model with its head": (filled(1, "model.") | head("model.head") | METRICS, "model.", 3),
    "net": (filled(1, "net.") | METRICS, "net.", 0),
    "vit": (filled(1, "vit.") | head("classifier"), "vit.", 3),
    "encoder beside decoder": (
        {"mask_token": torch.zeros(1), **filled(2, "decoder.", vit(**WIDE)), **filled(1, "encoder.")},
        "encoder.", 0,
    ),
    "masked autoencoder of lightly": (
        filled(1, "backbone.vit.") | filled(2, "decoder.", vit(**WIDE)), "backbone.vit.", 0,
    ),
    "dino of lightly": (
        {**filled(2, "student_backbone."), **projection("student_head"), **filled(1, "teacher_backbone."),
         **projection("teacher_head")}, "teacher_backbone.", 0,
    ),
    "dino, one dictionary": (
        {**filled(2, "student.backbone."), **projection("student.head"), **filled(1, "teacher.backbone.")},
        "teacher.backbone.", 0,
    ),
    "dino": (
        {"student": {**filled(2, "module.backbone."), **projection("module.head.mlp")},
         "teacher": {**filled(1, "backbone."), **projection("head.mlp")}, "epoch": 1}, "backbone.", 0,
    ),
    "moco v3": (
        {"state_dict": {**filled(1, "module.base_encoder."), **projection("module.base_encoder.head"),
         **filled(2, "module.momentum_encoder."), **projection("module.predictor")}, "arch": "vit_small"},
        "module.base_encoder.", 0,
    ),
    "moco v2": (
        {"state_dict": {**filled(1, "module.encoder_q."), **projection("module.encoder_q.fc"),
         **filled(2, "module.encoder_k."), "module.queue": torch.zeros(8, 4)}}, "module.encoder_q.", 0,
    ),
    "averaged beside raw": (filled(2, "ema_model.module.") | filled(1, "model."), "model.", 0),
    "averaged alone": (filled(1, "ema_model.") | {"step": torch.tensor(3)}, "ema_model.", 0),
    "lightning": ({"state_dict": filled(1, "model.") | head("model.head") | METRICS, **LIGHTNING}, "model.", 3),
    "lightning, parts": (
        {"state_dict": filled(1, "backbone.") | head("head") | METRICS, **LIGHTNING}, "backbone.", 3,
    ),
    "solo-learn": ({"state_dict": BYOL, **LIGHTNING}, "backbone.", 3),
    "compiled and wrapped": (filled(1, "module._orig_mod.") | head("module._orig_mod.head"), "module._orig_mod.", 3),
    "plain": (filled(1) | head("head"), "", 3),
    "a teacher of another kind": (
        filled(1, "model.") | filled(2, "teacher.", registry.backbone("resnet8", 32)), "model.", 0,
    ),
    "net with its head": (filled(1, "net.") | head("net.fc") | METRICS, "net.", 3),
    "network of a list": (filled(1, "0.") | {"1.weight": torch.ones(3, 24)}, "0.", 0),
}  # fmt: skip


def fill(
    content, tmp_path: Path, key: str = "teacher", **options
) -> tuple[nn.Module, pretrained.Pretrained]:
    torch.save(content, tmp_path / "x.ckpt")
    file = pretrained.read(tmp_path / "x.ckpt", key)
    network = vit(**options)
    pretrained.fill(network, file, "vit", registry.adapter("vit"), strict=True)
    return network, file


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_network_that_fits_is_taken_and_said(name, tmp_path, capsys):
    content, prefix, classes = LAYOUTS[name]
    guess = pretrained.of_content(content, Path("x.pt"))
    assert len(guess.head.get("weight", ())) == classes  # asked before a network is built
    network, file = fill(content, tmp_path)
    assert all((value == 1).all() for value in network.parameters())
    assert file.choice.place.prefix == prefix
    assert len(file.head.get("weight", ())) == classes
    said = capsys.readouterr().err
    assert f"{len(network.state_dict())} tensors loaded by name" in said
    assert f"under the prefix {prefix}" in said or not prefix


def test_what_stays_out_is_said(tmp_path, capsys):
    content, _, _ = LAYOUTS["solo-learn"]
    fill(content, tmp_path)
    first, outside, other = capsys.readouterr().err.splitlines()
    assert first.endswith(
        "x.ckpt: 30 tensors loaded by name from its state_dict, under the prefix backbone."
    )
    assert "35 not under it stay out: momentum_backbone.cls_token, " in outside
    assert (
        other
        == "  it also holds momentum_backbone, which --checkpoint_key momentum_backbone takes instead"
    )


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("dino of lightly", "student_backbone"),
        ("dino, one dictionary", "student"),
        ("dino", "student"),
    ],
)
def test_a_student_beside_a_teacher_is_said_and_can_be_taken(name, other, tmp_path, capsys):
    content = LAYOUTS[name][0]
    fill(content, tmp_path)
    assert (
        f"it also holds {other}, which --checkpoint_key {other} takes instead"
        in capsys.readouterr().err
    )
    network, _ = fill(content, tmp_path, other)
    assert all((value == 2).all() for value in network.parameters())
    assert "it also holds" not in capsys.readouterr().err


def test_of_a_teachers_file_the_flag_is_its_own(tmp_path, capsys):
    """--teacher_key, in stage two and where maps are stored."""
    torch.save(LAYOUTS["dino of lightly"][0], tmp_path / "x.ckpt")
    asked = {"teacher": str(tmp_path / "x.ckpt"), "teacher_arch": "vit", "teacher_image_size": 16}
    for key, value in (("teacher", 1), ("student", 2)):
        storing = recipe(Storing, **asked, teacher_key=key)
        file = precompute.read_teacher(storing)
        network = vit()
        pretrained.fill(network, file, "vit", registry.adapter("vit"), strict=True)
        assert all((weight == value).all() for weight in network.parameters())
    assert "--teacher_key student_backbone takes instead" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no 'pupil'; choose --teacher_key among"):
        precompute.read_teacher(recipe(Storing, **asked, teacher_key="pupil"))
    with pytest.raises(ValueError, match="--teacher_key pupil: needs --teacher FILE"):
        recipe(Finetuning, teacher_key="pupil")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("solo-learn", "momentum_backbone"), ("solo-learn", "momentum"), ("moco v3", "momentum_encoder"),
        ("moco v2", "encoder_k"), ("averaged beside raw", "ema"), ("averaged beside raw", "ema_model"),
        ("dino", "student"), ("dino of lightly", "student"), ("dino, one dictionary", "student"),
    ],
)  # fmt: skip
def test_the_key_takes_another_one(name, key, tmp_path):
    network, _ = fill(LAYOUTS[name][0], tmp_path, key)
    assert all((value == 2).all() for value in network.parameters())


@pytest.mark.parametrize(
    "raw, average", [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("net", "ema")]
)
def test_raw_weights_go_before_averaged_ones_and_the_key_takes_those(
    raw, average, tmp_path, capsys
):
    content = {average: filled(2), raw: filled(1)}
    network, _ = fill(content, tmp_path)
    assert all((value == 1).all() for value in network.parameters())
    said = capsys.readouterr().err
    assert (
        f"loaded by name from its {raw}\n" in said
        and f"--checkpoint_key {average} takes instead" in said
    )
    network, _ = fill(content, tmp_path, average)
    assert all((value == 2).all() for value in network.parameters())
    with pytest.raises(
        ValueError, match=f"no 'swa'; choose --checkpoint_key among {average}, {raw}"
    ):
        fill(content, tmp_path, "swa")


def test_names_and_shapes_decide_not_the_number_of_tensors(tmp_path):
    """Both have the names of the network; only one has its shapes."""
    network, _ = fill(filled(2, "a.", vit(**WIDE)) | filled(1, "b."), tmp_path)
    assert all((value == 1).all() for value in network.parameters())


def test_a_few_layers_that_happen_to_fit_are_no_network(tmp_path):
    other = {f"blocks.{index}.norm.weight": torch.ones(24) for index in range(40)}
    with pytest.raises(ValueError, match="nothing in the file fits this network: it has blocks"):
        fill(other, tmp_path)


def test_tables_of_positions_are_resized_under_any_prefix(tmp_path):
    large = registry.backbone("vit", 48, **VIT, patch_size=4)
    torch.save(
        {"net." + name: value for name, value in large.state_dict().items()}, tmp_path / "x.pt"
    )
    small = registry.backbone("vit", 32, **VIT, patch_size=4)
    file = pretrained.read(tmp_path / "x.pt")
    pretrained.fill(small, file, "vit", registry.adapter("vit"), strict=True)
    assert torch.equal(small.pos_embed[:, 0], large.pos_embed[:, 0])


def test_published_names_under_a_strange_prefix(tmp_path):
    """`adapt` belongs to the search: locality guidance calls a ResNet's layers s1.b1.f.a."""
    names = {"conv1.": "stem.conv.", "bn1.": "stem.bn."}
    network = registry.backbone("resnet8", 32)
    content = {}
    for name, value in network.state_dict().items():
        for ours, theirs in names.items():
            if name.startswith(ours):
                name = theirs + name.removeprefix(ours)
        content["learner.cnn." + name] = value
    torch.save(content, tmp_path / "x.pt")
    again = registry.backbone("resnet8", 32)
    pretrained.fill(
        again,
        pretrained.read(tmp_path / "x.pt"),
        "resnet8",
        registry.adapter("resnet8"),
        strict=True,
    )
    assert torch.equal(again.conv1.weight, network.conv1.weight)


def test_the_classifier_beside_the_backbone_must_read_its_features(tmp_path):
    content = filled(1, "encoder.") | {"fc.weight": torch.ones(10, 100), **head("classifier")}
    _, file = fill(content, tmp_path)
    assert file.head["weight"].shape == (3, 24)


def test_averaged_weights_of_our_own_runs_have_a_key(tmp_path, capsys):
    path, state = tmp_path / "checkpoint.pt", {**filled(1, "backbone."), **head("head")}
    average = {**filled(2, "backbone."), **head("head")}
    checkpoint.save(Checkpoint(Metadata("finetune"), {"model": state, "average": average}), path)
    assert pretrained.read(path).backbone["norm.weight"][0] == 1
    assert (
        "also holds averaged weights, which stay out: --checkpoint_key average"
        in capsys.readouterr().err
    )
    assert pretrained.read(path, "average").backbone["norm.weight"][0] == 2
    checkpoint.save(Checkpoint(Metadata("finetune"), {"model": state, "average": state}), path)
    pretrained.read(path)
    assert not capsys.readouterr().err


def test_whole_modules_of_trusted_files_are_state_dicts():
    content = {"model": vit(), "ema": vit(), "epoch": 3}
    found = candidates.candidates(content, Path("x.pt"), "teacher")
    assert set(found.states) == {"model", "ema"} and found.guess() == candidates.Place("model")


def test_no_weights_at_all_are_said_in_one_line():
    with pytest.raises(ValueError, match=r"x\.pt holds a list, not a dictionary of weights"):
        candidates.candidates([], Path("x.pt"), "teacher")
    with pytest.raises(ValueError, match=r"x\.pt holds no weights: it has epoch, optimizer$"):
        candidates.candidates({"epoch": 1, "optimizer": {"lr": 1}}, Path("x.pt"), "teacher")
    with pytest.raises(
        ValueError, match="no 'ema'; all its tensors are of one network, leave --ch"
    ):
        candidates.candidates(vit().state_dict(), Path("x.pt"), "ema")
