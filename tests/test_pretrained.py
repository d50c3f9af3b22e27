"""weights/pretrained.py: what files give, and the report of what was copied. Other cases: test_finetune.py."""

import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from multicrop.commands._networks import fill_backbone
from multicrop.commands._origin import data_origin
from multicrop.config.data import DataSettings
from multicrop.engine import checkpoint
from multicrop.engine.metadata import Checkpoint, Metadata
from multicrop.registry import backbone
from multicrop.weights import pretrained, series


def test_a_timm_file_fills_the_same_timm_backbone(tmp_path, capsys):
    network = timm.create_model("test_resnet")
    save_file(network.state_dict(), tmp_path / "network.safetensors")
    file = pretrained.read(tmp_path / "network.safetensors")
    assert file.metadata == Metadata("") and file.head["weight"].shape[0] == 1000
    filled = backbone("timm:test_resnet", 32)
    fill_backbone(filled, file, "timm:test_resnet", strict=True)
    images = torch.randn(2, 3, 32, 32)
    pooled = network.eval().forward_head(network.forward_features(images), pre_logits=True)
    torch.testing.assert_close(filled.eval()(images), pooled)
    said = capsys.readouterr().err
    assert "tensors loaded by name" in said and "kept as initialised" not in said


def test_the_published_checkpoint_fills_a_vit_of_its_size_only(golden):
    file = pretrained.read(golden / "reference_checkpoint.pth", trust=True)
    assert not file.head and not any(name.startswith("mlphead") for name in file.backbone)
    vit = backbone("vit", 32, patch_size=4, embed_dim=32, num_layers=2, num_heads=4)
    fill_backbone(vit, file, "vit", strict=True)
    with pytest.raises(ValueError, match=r"does not fit --arch vit .* blocks\.2"):
        fill_backbone(
            backbone("vit", 32, patch_size=4, embed_dim=32, num_layers=3, num_heads=4),
            file,
            "vit",
            strict=True,
        )


def ssl_checkpoint(value: float) -> Checkpoint:
    vit = backbone("vit", 32, embed_dim=8, num_layers=1, num_heads=1)
    teacher = {
        f"backbone.{name}": torch.full_like(tensor, value)
        for name, tensor in vit.state_dict().items()
    }
    recipe = {"datapath": "somewhere", "source_size": 48}
    metadata = Metadata("ssl", data={"dataset": "CIFAR10"}, recipe=recipe)
    return Checkpoint(metadata, {"teacher": teacher, "optimizer": {"state": 1}})


def test_a_run_folder_stands_for_its_newest_readable_checkpoint(tmp_path, capsys):
    for value in (1.0, 2.0):
        checkpoint.save_newest(ssl_checkpoint(value), tmp_path)
    newest = pretrained.read(tmp_path)
    assert newest.backbone["norm.weight"][0] == 2.0 and newest.metadata.kind == "ssl"
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
    checkpoint.save(ssl_checkpoint(0.0), tmp_path / "x.pt")
    file = pretrained.read(tmp_path / "x.pt")

    def origin(metadata, dataset, datapath, source_size):
        found = data_origin(DataSettings(dataset, datapath, source_size=source_size), metadata)
        return found.dataset, found.datapath, found.source_size

    assert origin(file.metadata, None, None, None) == ("CIFAR10", "somewhere", 48)
    assert origin(file.metadata, "cifar-10", None, None) == ("cifar-10", "somewhere", 48)
    assert origin(file.metadata, None, "there", 32) == ("CIFAR10", "there", 32)
    assert origin(file.metadata, "SVHN", None, None) == ("SVHN", "./data", None)
    assert origin(pretrained.Pretrained().metadata, None, None, None) == ("shapes", "./data", None)


@pytest.mark.parametrize("drawn", ["shapes", "shapes_1"])
def test_weights_of_a_drawn_set_read_no_folder_that_nobody_named_a_data_set_for(drawn):
    weights = Metadata("ssl", 3, data={"dataset": drawn})
    with pytest.raises(ValueError, match=f"--datapath photos: {drawn}, which is drawn"):
        data_origin(DataSettings(datapath="photos"), weights)
    named = data_origin(DataSettings("images", "photos"), weights)
    assert (named.dataset, named.datapath) == ("images", "photos")


SIZES = {"patch_size": 4, "embed_dim": 16, "num_layers": 2, "num_heads": 2}


@pytest.mark.parametrize(
    ("theirs", "flags"),
    [
        ({"embed_dim": 48}, "--embed_dim 48 would fit"),
        ({"embed_dim": 48, "patch_size": 8}, "--embed_dim 48 --patch_size 8 would fit"),
        ({"embed_dim": 48, "num_layers": 3}, "--embed_dim 48 would fit"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.backbone.", "net.trunk."])
def test_of_other_sizes_it_is_said_which_tensor_differs_and_what_would_fit(
    tmp_path, prefix, theirs, flags
):
    state = backbone("vit", 32, **SIZES | theirs).state_dict()
    torch.save({prefix + name: value for name, value in state.items()}, tmp_path / "x.pt")
    options = {"arch": "vit", "image_size": 32, **SIZES}
    for strict in (False, True):
        file = pretrained.read(tmp_path / "x.pt")
        with pytest.raises(ValueError) as caught:
            fill_backbone(backbone(**options), file, "vit", strict, options=options)
        shapes = r"cls_token is \(1, 1, 48\) in the file and \(1, 1, 16\) in the network"
        assert re.search(
            f"x.pt: names agree but sizes differ, of .* tensors: {shapes}", str(caught.value)
        )
        assert str(caught.value).endswith(flags)


def test_what_is_proposed_is_tried(tmp_path):
    """The command line that a message proposes goes through."""
    options = {"arch": "vit", "image_size": 32, **SIZES}
    theirs = backbone("vit", 32, **SIZES | {"embed_dim": 48, "vit_mlp_ratio": 4.0, "patch_size": 8})
    torch.save(theirs.state_dict(), tmp_path / "x.pt")
    file = pretrained.read(tmp_path / "x.pt")
    with pytest.raises(ValueError) as caught:
        fill_backbone(backbone(**options), file, "vit", strict=True, options=options)
    found = re.findall(r"--(\w+) ([\d.]+)", str(caught.value))
    proposed = {name: float(value) if "." in value else int(value) for name, value in found}
    fill_backbone(backbone(**options | proposed), file, "vit", strict=True)


def test_one_tensor_of_another_size_is_said_where_all_are_needed(tmp_path):
    options = {"arch": "vit", "image_size": 32, **SIZES}
    state = backbone("vit", 32, **SIZES | {"patch_size": 8}).state_dict()
    torch.save(state, tmp_path / "x.pt")
    file = pretrained.read(tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"of 1 tensors: patch_embed.*; --patch_size 8 would fit"):
        fill_backbone(backbone(**options), file, "vit", strict=True, options=options)
    fill_backbone(backbone(**options), file, "vit")  # trained from what there is


def test_of_a_size_with_a_name_the_name_is_proposed(tmp_path):
    torch.save(backbone("cct_4_3x2_32", 32).state_dict(), tmp_path / "x.pt")
    options = {"arch": "cct_7_3x1_32", "image_size": 32}
    file = pretrained.read(tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"sizes differ.*; --arch cct_4_3x2_32 would fit"):
        fill_backbone(backbone(**options), file, options["arch"], options=options)


def test_a_tensor_or_two_that_fit_among_many_that_do_not_are_no_pretrained_network(tmp_path):
    state = backbone("vit", 32, **SIZES | {"embed_dim": 48}).state_dict()
    state["patch_embed.proj.weight"] = torch.zeros(16, 3, 4, 4)
    torch.save(state, tmp_path / "x.pt")
    file = pretrained.read(tmp_path / "x.pt")
    with pytest.raises(ValueError, match="sizes differ"):
        fill_backbone(backbone("vit", 32, **SIZES), file, "vit")


@pytest.mark.parametrize("count", [1, 2])
def test_what_cannot_be_read_is_said_once(tmp_path, capsys, count):
    vit = backbone("vit", 32, **SIZES)
    names = [str(tmp_path / f"{i}.pt") for i in range(count)]
    for name in names:
        torch.save(vit.state_dict(), name)
    with pytest.raises(ValueError) as caught:
        list(series.read(names, "model"))
    said = capsys.readouterr().err + str(caught.value)
    assert "nothing" not in said
    assert (
        said.count("no 'model'; all its tensors are of one network, leave --checkpoint_key out")
        == count
    )
