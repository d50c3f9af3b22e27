"""multicrop/pretrained.py: what files give, and the report of what was copied. Other cases: test_finetune.py."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from multicrop import pretrained
from multicrop.find import backbone


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
            backbone("vit", 32, patch_size=4, embed_dim=32, num_layers=3, num_heads=4), file, "vit", whole=True
        )
