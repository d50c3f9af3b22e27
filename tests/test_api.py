"""The Python door: import multicrop, and the lines that the README prints."""

import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

import multicrop

SMALL = {
    "embed_dim": 24, "num_layers": 1, "num_heads": 2, "image_size": 16, "device": "cpu", "dataset": "image_folder",
}  # fmt: skip


@pytest.fixture(scope="module")
def pretrained(colours, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    result = multicrop.pretrain(
        **SMALL, datapath=colours, output_dir=folder, out_dim=16, local_crops_number=1, batch_size_per_gpu=8,
        max_steps=2, knn_freq=0, blur=(1.0, 0.1, 0.5),
    )  # fmt: skip
    assert (result["status"], result["step"]) == ("stopped", 2)
    return folder


def test_importing_it_imports_nothing_heavy():
    code = "import sys, multicrop; assert not {'torch', 'numpy', 'tyro'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_public_names_are_listed_and_there():
    assert {"pretrain", "finetune", "knn", "load", "transform", "ImageSet", "LoadOptions"} <= {
        *dir(multicrop)
    }
    assert multicrop.LoadOptions().source_size == 64
    with pytest.raises(AttributeError, match="no attribute 'pretran'"):
        multicrop.pretran  # noqa: B018


def test_a_loaded_backbone_knows_its_images(pretrained, colours):
    backbone = multicrop.load(pretrained)
    assert not backbone.training and (backbone.dim, backbone.image_size) == (24, 16)
    assert len(backbone.mean) == len(backbone.std) == 3
    images = torch.randint(256, (5, 3, 20, 20), dtype=torch.uint8)
    seen = multicrop.transform(backbone)(images)
    assert seen.shape == (5, 3, 16, 16) and seen.dtype == torch.float32
    assert backbone(seen).shape == (5, 24)


def test_the_probe_and_stage_two_take_the_folder(pretrained, colours, tmp_path):
    probed = multicrop.knn(pretrained, nb_knn=(3, 5), device="cpu")
    assert set(probed["results"][-1]["top1"]) == {"3", "5"}
    options = {"device": "cpu", "ra": 1, "batch_size": 12, "max_steps": 1}
    tuned = multicrop.finetune(pretrained_weights=pretrained, output_dir=tmp_path, **options)
    assert tuned["step"] == 1 and 0 <= tuned["test_top1"] <= 100


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"imagesize": 32}, "unknown flag --imagesize; did you mean 'image_size'"),
        ({"image_size": 33}, "--image_size 33: must be even"),
        ({"optimizer": "adam"}, "adam"),
    ],
)
def test_wrong_settings_are_said_as_on_the_command_line(flags, message):
    with pytest.raises(ValueError, match=message):
        multicrop.pretrain(**flags)


def test_a_file_of_another_program_is_not_ours(tmp_path):
    torch.save({"state_dict": {"conv.weight": torch.zeros(1)}}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="does not say its architecture"):
        multicrop.load(tmp_path / "x.pt")


def test_the_lines_of_the_readme_run_as_printed(pretrained, tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "ssl").symlink_to(pretrained)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(block, names)
    features = names["features"]
    assert features.shape == (len(names["images"]), 24) and not features.requires_grad
