"""weights/pretrained.py: what files give, and the report of what was copied. Other cases: test_finetune.py."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from multicrop.engine import checkpoint
from multicrop.registry import backbone
from multicrop.weights import pretrained


def test_a_timm_file_fills_the_same_timm_backbone(tmp_path, capsys):
    network = timm.create_model("test_resnet")
    save_file(network.state_dict(), tmp_path / "network.safetensors")
    file = pretrained.read(tmp_path / "network.safetensors")
    assert file.about == {} and file.head["weight"].shape[0] == 1000
    filled = backbone("timm:test_resnet", 32)
    pretrained.fill(filled, file, "timm:test_resnet", whole=True)
    images = torch.randn(2, 3, 32, 32)
    pooled = network.eval().forward_head(network.forward_features(images), pre_logits=True)
    torch.testing.assert_close(filled.eval()(images), pooled)
    said = capsys.readouterr().err
    assert "tensors loaded by name" in said and "kept as initialised" not in said


def test_the_published_checkpoint_fills_a_vit_of_its_size_only(golden):
    file = pretrained.read(golden / "reference_checkpoint.pth", trust=True)
    assert not file.head and not any(name.startswith("mlphead") for name in file.backbone)
    vit = backbone("vit", 32, patch_size=4, embed_dim=32, num_layers=2, num_heads=4)
    pretrained.fill(vit, file, "vit", whole=True)
    with pytest.raises(ValueError, match=r"does not fit --arch vit .* blocks\.2"):
        pretrained.fill(
            backbone("vit", 32, patch_size=4, embed_dim=32, num_layers=3, num_heads=4),
            file,
            "vit",
            whole=True,
        )


def ssl_state(value: float) -> dict:
    vit = backbone("vit", 32, embed_dim=8, num_layers=1, num_heads=1)
    teacher = {
        f"backbone.{name}": torch.full_like(tensor, value)
        for name, tensor in vit.state_dict().items()
    }
    described = {"dataset": "CIFAR10"}, {"datapath": "somewhere", "source_size": 48}
    return {
        "kind": "ssl",
        "teacher": teacher,
        "data": described[0],
        "recipe": described[1],
        "optimizer": {"state": 1},
    }


def test_a_run_folder_stands_for_its_newest_readable_checkpoint(tmp_path, capsys):
    for value in (1.0, 2.0):
        checkpoint.save_newest(ssl_state(value), tmp_path)
    newest = pretrained.read(tmp_path)
    assert newest.backbone["norm.weight"][0] == 2.0 and "optimizer" not in newest.about
    newest.path.write_bytes(newest.path.read_bytes()[:1000])
    before = pretrained.read(tmp_path)
    assert before.backbone["norm.weight"][0] == 1.0 and before.path.name == checkpoint.PREVIOUS
    assert "damaged" in capsys.readouterr().err
    newest.path.unlink()  # what a crash between the two renames leaves
    assert pretrained.read(tmp_path).path == before.path
    before.path.unlink()
    with pytest.raises(FileNotFoundError, match=f"no checkpoint at {tmp_path}"):
        pretrained.read(tmp_path)


def test_flags_say_where_the_images_are_then_the_file_for_its_own_data_set(tmp_path):
    checkpoint.save(ssl_state(0.0), tmp_path / "x.pt")
    file = pretrained.read(tmp_path / "x.pt")
    assert file.origin(None, None, None) == ("CIFAR10", "somewhere", 48)
    assert file.origin("cifar-10", None, None) == ("cifar-10", "somewhere", 48)
    assert file.origin(None, "there", 32) == ("CIFAR10", "there", 32)
    assert file.origin("SVHN", None, None) == ("SVHN", "./data", None)
    assert pretrained.Pretrained().origin(None, None, None) == ("shapes", "./data", None)
