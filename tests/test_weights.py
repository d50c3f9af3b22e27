from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from multicrop.engine import checkpoint
from multicrop.engine.metadata import Checkpoint, Metadata
from multicrop.registry import backbone, find
from multicrop.weights import loading, pretrained

SMALL = {"embed_dim": 24, "num_layers": 2, "num_heads": 2}


def read(path, key="teacher", trust=False) -> dict:
    return pretrained.read(path, key, trust).backbone


def filled(model: torch.nn.Module, value: float) -> dict:
    return {
        name: torch.full_like(t, value) if t.is_floating_point() else t
        for name, t in model.state_dict().items()
    }


@pytest.fixture
def vit():
    return backbone("vit", 32, **SMALL)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "backbone.", "module.backbone.", "_orig_mod.module."]
)
def test_wrappers_prefixes_do_not_matter(vit, prefix):
    state = {prefix + name: value for name, value in filled(vit, 0.5).items()}
    state |= {prefix.replace("backbone.", "") + "mlphead.mlp.0.weight": torch.ones(3)}
    file = pretrained.of_content(state, Path("x.pt"))
    report = loading.load_by_name(vit, file.backbone)
    assert not report.missing and not report.misshapen
    assert all((p == 0.5).all() for p in vit.parameters())


def test_names_decide_not_positions(vit):
    """The published loader paired values with keys by position, so an order of its own filled the wrong tensors."""
    state = dict(reversed(list(backbone("vit", 32, **SMALL).state_dict().items())))
    loading.load_by_name(vit, state)
    for name, value in vit.state_dict().items():
        assert torch.equal(value, state[name])


def test_the_report_says_what_was_not_loaded_and_why(vit):
    state = filled(vit, 0.5)
    del state["norm.weight"]
    state["blocks.0.attn.qkv.weight"] = torch.ones(3, 3)
    state["extra.weight"] = torch.ones(1)
    kept = vit.norm.weight.clone()
    report = loading.load_by_name(vit, state)
    assert report.missing == ["norm.weight"] and report.unused == ["extra.weight"]
    assert list(map(str, report.misshapen)) == ["blocks.0.attn.qkv.weight (3, 3) for (72, 24)"]
    assert torch.equal(vit.norm.weight, kept)
    text = "\n".join(report.lines("x.pt"))
    assert "norm.weight" in text and "extra.weight" in text and "(3, 3) for (72, 24)" in text


def test_nothing_loaded_is_an_error(vit):
    with pytest.raises(ValueError, match="nothing in the file fits this network") as error:
        loading.load_by_name(vit, {"conv1.weight": torch.ones(1)})
    assert "\n" not in str(error.value)


def test_student_or_teacher_is_chosen_by_key(tmp_path, vit):
    path = tmp_path / "checkpoint.pt"
    networks = {
        k: {f"backbone.{n}": t for n, t in filled(vit, v).items()}
        for k, v in (("student", 1.0), ("teacher", 2.0))
    }
    checkpoint.save(Checkpoint(Metadata("ssl"), networks), path)
    for key, value in (("student", 1.0), ("teacher", 2.0)):
        assert (read(path, key)["norm.weight"] == value).all()
    with pytest.raises(
        ValueError, match="no 'pupil'; choose --checkpoint_key among teacher, student"
    ):
        read(path, "pupil")


def test_plain_state_dicts_and_safetensors_load(tmp_path, vit):
    torch.save({"state_dict": filled(vit, 3.0)}, tmp_path / "a.pth")
    save_file(filled(vit, 4.0), tmp_path / "b.safetensors")
    assert read(tmp_path / "a.pth")["norm.weight"][0] == 3.0
    assert read(tmp_path / "b.safetensors")["norm.weight"][0] == 4.0
    (tmp_path / "c.safetensors").write_bytes(b"not a safetensors file")
    with pytest.raises(ValueError, match=r"c\.safetensors is damaged"):
        read(tmp_path / "c.safetensors")


def test_a_timm_file_loads_by_timms_names(tmp_path):
    theirs = timm.create_model("resnet18", num_classes=10)
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    ours = backbone("timm:resnet18", 32)
    file = pretrained.read(tmp_path / "resnet18.pth")
    report = loading.load_by_name(ours, file.backbone)
    assert not report.missing and not report.unused and file.head["weight"].shape == (10, 512)
    assert torch.equal(ours.conv1.weight, theirs.conv1.weight)


def test_a_checkpoint_of_the_published_code_gives_its_features(golden):
    """vit of 32 px, patch 4, width 32, depth 2, 4 heads, saved by the reference's own torch.save call."""
    path = golden / "reference_checkpoint.pth"
    with pytest.raises(ValueError, match="--trust_checkpoint"):
        read(path)
    recorded = np.load(golden / "reference_checkpoint_outputs.npz")
    vit = backbone("vit", 32, patch_size=4, embed_dim=32, num_layers=2, num_heads=4).eval()
    for key in ("teacher", "student"):
        report = loading.load_by_name(vit, read(path, key, trust=True), find("models", "vit").adapt)
        assert not report.missing and not report.misshapen
        with torch.no_grad():
            features = vit(torch.tensor(recorded["input"]))
        torch.testing.assert_close(
            features, torch.tensor(recorded[f"{key}_features"]), atol=1e-5, rtol=0
        )
