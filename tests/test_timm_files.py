"""A trained classifier goes into timm and back: its head, classes, colours and image size come along."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from finetuning import NETWORK, PLAIN, run
from timm.data import resolve_model_data_config
from timm.models import save_for_hf
from torch import Tensor

import multicrop
import multicrop.timm_models
from multicrop import registry
from multicrop.engine import checkpoint
from multicrop.engine.metadata import Checkpoint, Metadata
from multicrop.supervised.classifier import Classifier
from multicrop.weights import pretrained

FAMILIES = [name for name in registry.names("models") if name != "timm"]
NAMES = [*FAMILIES, "deit_tiny_distilled", "cct_2_3x2_32", "fusion:img_gm_vit_2_4_32"]
SMALL = {
    "embed_dim": 24,
    "num_heads": 2,
    "num_layers": 1,
}
CLASSES = ["bee", "cat", "dog"]
DATA = {
    "dataset": "image_folder", "classes": CLASSES, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6],
    "crop_pct": None,
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def images(size: int = 32, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(size))


def options_of(arch: str) -> dict[str, Any]:
    """Arguments of registry.backbone for a small network of this architecture."""
    takes = inspect.signature(registry.architecture(arch).module.build).parameters
    small = {name: value for name, value in SMALL.items() if name in takes}
    if "depths" in takes:
        small["depths"] = (1,) * len(takes["depths"].default)
    if ":" in arch or "_" in arch:  # variants have sizes of their own
        small = {name: value for name, value in small.items() if name == "num_layers"}
    return {"arch": arch, "image_size": 32, "in_channels": 3, **small}


def classifier(options: dict[str, Any], classes: int = 3) -> Classifier:
    """With biases and running statistics that are not as initialised."""
    torch.manual_seed(1)
    model = Classifier(registry.backbone(**options), classes)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value += 0.01 * torch.rand_like(value)
    return model.eval()


def saved(model: Classifier, options: dict[str, Any], path: Path, **parts: Any) -> Path:
    """As finetune writes it."""
    metadata = Metadata("finetune", backbone=options, data=DATA)
    checkpoint.save(Checkpoint(metadata, {"model": model.state_dict(), **parts}), path)
    return path


def timm_model(name: str, path: Path, **more: Any) -> torch.nn.Module:
    overlay = {"file": str(path), **more.pop("overlay", {})}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **more).eval()


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("standardise", [None, True], ids=["plain", "standardise"])
@pytest.mark.parametrize("arch", NAMES)
@torch.no_grad()
def test_a_finetuned_file_comes_whole_into_timm_and_back(arch, standardise, tmp_path):
    options = options_of(arch) | ({"standardise": True} if standardise else {})
    own = classifier(options)
    path = saved(own, options, tmp_path / "best.pt")
    logits = own(images())
    assert logits.isfinite().all()
    model = multicrop.timm_models.load(path)
    close(model(images()), logits)
    assert model.pretrained_cfg["label_names"] == tuple(CLASSES)

    older_timm = (
        {} if hasattr(timm.models._hub, "get_model_args") else {"model_args": model._model_args}
    )
    save_for_hf(model, tmp_path / "hf", **older_timm)
    close(
        timm.create_model(f"local-dir:{tmp_path / 'hf'}", pretrained=True).eval()(images()), logits
    )

    torch.save(model.state_dict(), tmp_path / "plain.pt")
    file = pretrained.read(tmp_path / "plain.pt")
    again = Classifier(registry.backbone(**options), 3).eval()
    pretrained.fill(again.backbone, file, arch, registry.adapter(arch), strict=True)
    again.load_heads(file.head, file.second_head)
    close(again(images()), logits)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
@torch.no_grad()
def test_a_network_of_timm_becomes_timms_own_model(name, tmp_path):
    options = {"arch": f"timm:{name}", "image_size": 32, "in_channels": 3}
    own = classifier(options)
    path = saved(own, options, tmp_path / "best.pt")
    logits = own(images())
    close(multicrop.load_classifier(path)(images()), logits)
    model = multicrop.timm_models.load(path)
    close(model(images()), logits)
    assert resolve_model_data_config(model)["mean"] == tuple(DATA["mean"])
    assert model.pretrained_cfg["label_names"] == tuple(CLASSES)
    assert "url" not in model.pretrained_cfg and "hf_hub_id" not in model.pretrained_cfg
    save_for_hf(model, tmp_path / "hf")
    again = timm.create_model(f"local-dir:{tmp_path / 'hf'}", pretrained=True).eval()
    close(again(images()), logits)

    torch.save(
        again.state_dict(), tmp_path / "plain.pt"
    )  # timm's own names, its classifier among them
    file = pretrained.read(tmp_path / "plain.pt")
    filled = Classifier(registry.backbone(**options), 3).eval()
    arch = options["arch"]
    pretrained.fill(filled.backbone, file, arch, registry.adapter(arch), strict=True)
    filled.load_heads(file.head, file.second_head)
    close(filled(images()), logits)


def test_what_timms_own_model_cannot_do_is_refused(tmp_path):
    options = {"arch": "timm:test_resnet", "image_size": 32, "in_channels": 3, "standardise": True}
    own = classifier(options)
    path = saved(own, options, tmp_path / "best.pt")
    with pytest.raises(ValueError, match="made with --standardise, which timm's own model cannot"):
        multicrop.timm_models.load(path)
    close(multicrop.load_classifier(path)(images()), own(images()))


@torch.no_grad()
def test_what_the_file_says_is_taken_where_it_is_not_given(tmp_path):
    options = {
        "arch": "vit",
        "image_size": 16,
        "in_channels": 1,
        "embed_dim": 24,
        "num_layers": 2,
        "num_heads": 4,
    }
    own = classifier(options)
    path = saved(own, options, tmp_path / "best.pt")
    x = images(16, channels=1)
    model = timm_model("multicrop_vit", path, overlay={"num_classes": 3})
    close(model(x), own(x))
    cfg = model.pretrained_cfg
    assert (cfg["num_classes"], cfg["label_names"]) == (3, tuple(CLASSES))
    assert (cfg["mean"], cfg["std"]) == (tuple(DATA["mean"]), tuple(DATA["std"]))
    seen = resolve_model_data_config(model)
    assert seen["input_size"] == (1, 16, 16) and seen["crop_pct"] == 1.0
    assert (seen["interpolation"], seen["crop_mode"]) == ("bicubic", "center") and seen[
        "mean"
    ] == tuple(DATA["mean"])
    other = timm_model("multicrop_vit", path, img_size=24, overlay={"std": (1.0, 1.0, 1.0)})
    assert other.pretrained_cfg["std"] == (1.0, 1.0, 1.0) and other(images(24, 1)).shape == (2, 3)


def test_a_classifier_of_other_classes_stays_out_and_it_is_said(tmp_path, capsys):
    options = options_of("vit")
    path = saved(classifier(options), options, tmp_path / "best.pt")
    model = timm_model("multicrop_vit", path, num_classes=10)
    assert model.head.weight.shape == (10, 24) and model.head.bias.eq(0).all()
    said = capsys.readouterr().err
    assert "its classifier of 3 classes stays out, since the model has 10" in said
    state = classifier(options).state_dict()
    overlay = {"state_dict": state, "num_classes": 3}
    sizes = {name: value for name, value in options.items() if name in SMALL}
    timm.create_model(
        "multicrop_vit", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=10, **sizes
    )
    assert "the file: its classifier of 3 classes stays out" in capsys.readouterr().err


def test_a_file_without_a_classifier_says_so(tmp_path, capsys):
    options = options_of("vit")
    network = registry.backbone(**options)
    teacher = {f"backbone.{name}": value for name, value in network.state_dict().items()}
    metadata = Metadata("ssl", backbone=options, data=DATA)
    checkpoint.save(Checkpoint(metadata, {"teacher": teacher}), tmp_path / "ssl.pt")
    model = timm_model("multicrop_vit", tmp_path / "ssl.pt", num_classes=3)
    assert torch.equal(model.backbone.pos_embed, network.pos_embed)
    assert "ssl.pt has no classifier: the model's is as initialised" in capsys.readouterr().err
    with pytest.raises(ValueError, match="has no classifier: it is of stage one"):
        multicrop.load_classifier(tmp_path / "ssl.pt")


def test_the_checkpoint_of_another_family_is_refused(tmp_path):
    options = options_of("vit")
    path = saved(classifier(options), options, tmp_path / "best.pt")
    with pytest.raises(ValueError, match=r"best\.pt was made with --arch vit, not with cait"):
        timm_model("multicrop_cait", path)


@torch.no_grad()
def test_averaged_weights_have_a_key(tmp_path, capsys):
    options = options_of("vit")
    own = classifier(options)
    average = {name: value + 0.1 for name, value in own.state_dict().items()}
    path = saved(own, options, tmp_path / "checkpoint.pt", average=average)
    close(multicrop.load_classifier(path)(images()), own(images()))
    close(timm_model("multicrop_vit", path)(images()), own(images()))
    capsys.readouterr()
    multicrop.timm_models.load(path)
    assert capsys.readouterr().err.count("also holds averaged weights") == 1
    own.load_state_dict(average)
    close(multicrop.load_classifier(path, "average")(images()), own(images()))
    model = timm_model("multicrop_vit", path, checkpoint_key="average")
    close(model(images()), own(images()))


def test_a_run_is_loaded_by_its_folder_and_evaluated_from_timms_state_dict(
    colours, tmp_path, capsys
):
    trained = run(colours, tmp_path / "run", **PLAIN, lr=0.01, warmup=0, val_fraction=0.0)
    model = multicrop.timm_models.load(tmp_path / "run")
    classes = ("blue", "green", "red")
    assert model.pretrained_cfg["label_names"] == classes
    own = multicrop.load_classifier(tmp_path / "run")
    assert own.classes == classes and own.image_size == 16
    seen = multicrop.transform(own)(torch.zeros(2, 3, 20, 20, dtype=torch.uint8))
    close(own(seen), model(seen))
    torch.save(model.state_dict(), tmp_path / "timm.pt")
    capsys.readouterr()
    weights = str(tmp_path / "timm.pt")
    found = run(colours, tmp_path / "eval", eval=True, pretrained_weights=weights, image_size=16)
    assert found["test_loss"] == pytest.approx(trained["test_loss"], abs=1e-6)
    assert "tensors loaded by name, under the prefix backbone." in capsys.readouterr().err


def test_stage_two_says_that_the_classifier_is_new(colours, tmp_path, capsys):
    options = {"arch": "vit", "image_size": 16, "in_channels": 3, **NETWORK}
    path = saved(classifier(options), options, tmp_path / "best.pt")
    run(colours, tmp_path / "run", pretrained_weights=str(path), max_steps=1, **PLAIN)
    said = capsys.readouterr().err
    assert said.count("its classifier of 3 classes stays out: a new one is trained") == 1
