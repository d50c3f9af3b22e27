"""multicrop embed: the features that the k-NN probe uses, of any images, in each format; and what it refuses."""

import json

import numpy as np
import pytest
import torch
from conftest import recipe, save_content
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import multicrop
from multicrop.commands import embed, knn
from multicrop.config.embed import Recipe
from multicrop.config.knn import Recipe as Probe
from multicrop.registry import backbone

OPTIONS = {"arch": "vit", "image_size": 16, "embed_dim": 16, "num_layers": 3, "num_heads": 2}
OPTIONS |= {"in_channels": 3, "drop_path_rate": 0.0, "patch_size": 8}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Random weights of stage one."""
    torch.manual_seed(0)
    student = {
        f"backbone.{name}": value for name, value in backbone(**OPTIONS).state_dict().items()
    }
    path = tmp_path_factory.mktemp("model") / "ssl.pt"
    data = {"dataset": "image_folder", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    content = {"kind": "ssl", "backbone": OPTIONS, "recipe": {"crop_flip": 0.0}, "data": data}
    save_content(content | {"student": student, "teacher": student}, path)
    return path


def run(model, *images, output, **values) -> dict:
    words = tuple(map(str, images))
    settings = {"device": "cpu", "batch_size": 5, "workers": 1, **values}
    return embed.run(recipe(Recipe, model=str(model), images=words, output=str(output), **settings))


def features(path) -> np.ndarray:
    return np.load(path)["features"]


def test_features_are_those_of_the_knn_probe(model, colours, tmp_path):
    probe = recipe(
        Probe, checkpoints=(str(model),), datapath=str(colours), dataset="image_folder", device="cpu", raw_pixels=False,
        random_weights=False, nb_knn=(3,), save_features=str(tmp_path / "bank.safetensors"),
    )  # fmt: skip
    knn.run(probe)
    bank = load_file(tmp_path / "bank.safetensors")
    result = run(
        model, dataset="image_folder", datapath=str(colours), output=tmp_path / "named.npz"
    )
    assert (result["images"], result["shape"], result["takes"]) == (24, [16], "features")
    named = np.load(tmp_path / "named.npz")
    wanted = bank["test_features"].numpy()
    np.testing.assert_allclose(named["features"], wanted, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(named["labels"], bank["test_labels"].numpy())
    assert named["classes"].tolist() == ["blue", "green", "red"]
    assert named["files"][8] == f"{colours}/test/green/00.png" and set(named["errors"]) == {""}
    run(model, colours / "train", output=tmp_path / "plain.npz")  # and without labels
    plain = np.load(tmp_path / "plain.npz")
    np.testing.assert_allclose(plain["features"], bank["train_features"].numpy(), rtol=0, atol=1e-6)
    assert "labels" not in plain and plain["files"][0] == f"{colours}/train/blue/00.png"


def test_blocks_stages_and_tokens(model, colours, tmp_path):
    network, images = multicrop.load(model), []
    for file in sorted((colours / "test" / "red").iterdir()):
        images.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
    with torch.no_grad():
        _, maps = network.forward_maps(multicrop.transform(network)(torch.stack(images)))
    folder, output = colours / "test" / "red", tmp_path / "x.npz"
    for block, name in enumerate(["blocks.0", "blocks.1", "blocks.2"]):
        tokens = maps[name].flatten(2).transpose(1, 2).numpy()
        result = run(model, folder, output=output, block=block, tokens=True)
        assert result["shape"] == [4, 16] and result["takes"] == f"tokens of {name}"
        np.testing.assert_allclose(features(output), tokens, rtol=0, atol=1e-6)
        run(model, folder, output=output, block=block)
        np.testing.assert_allclose(features(output), tokens.mean(1), rtol=0, atol=1e-6)
    run(model, folder, output=output, tokens=True, normalize=True)  # of the last block
    length = np.linalg.norm(tokens, axis=-1, keepdims=True)
    np.testing.assert_allclose(features(output), tokens / length, rtol=0, atol=1e-6)
    run(model, folder, output=output, stage=0)
    np.testing.assert_allclose(features(output), tokens.mean(1), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="--block 3: this network has blocks 0 to 2"):
        run(model, folder, output=output, block=3)
    with pytest.raises(ValueError, match="--stage 1: this network has stages 0 to 0"):
        run(model, folder, output=output, stage=1)
    with pytest.raises(ValueError, match="not with --stage"):
        run(model, folder, output=output, block=1, stage=0)


@pytest.mark.parametrize("tokens", [False, True])
def test_the_formats_say_the_same_and_unreadable_images_keep_their_place(
    model, colours, tmp_path, tokens
):
    pq = pytest.importorskip("pyarrow.parquet")
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    for name in ("x.npz", "x.safetensors", "x.parquet"):
        words = [colours / "test" / "red", broken, colours / "test" / "blue"]
        result = run(model, *words, output=tmp_path / name, tokens=tokens)
        assert (result["images"], result["unreadable"]) == (17, 1)
    npz = np.load(tmp_path / "x.npz")
    names, found = npz["files"].tolist(), npz["features"]
    assert names[8] == str(broken) and npz["errors"][8] == "not an image, or damaged"
    assert np.isnan(found[8]).all() and np.isfinite(np.delete(found, 8, 0)).all()
    with safe_open(tmp_path / "x.safetensors", "np") as file:
        np.testing.assert_array_equal(file.get_tensor("features"), found)
        said = {name: json.loads(text) for name, text in file.metadata().items()}
    assert said["files"] == names and said["errors"] == {"8": "not an image, or damaged"}
    table = pq.read_table(tmp_path / "x.parquet")
    shape = json.loads(table.schema.metadata[b"shape"])
    rows = np.array(table["features"].to_pylist(), np.float32).reshape(-1, *shape)
    np.testing.assert_array_equal(rows, found)
    assert table["file"].to_pylist() == names and table["error"][8].as_py() == npz["errors"][8]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "broken.png", "x.npz", "x.parquet", "x.safetensors",
    ]  # fmt: skip


def test_an_interrupted_command_goes_on_where_it_was(model, colours, tmp_path, capsys):
    whole, output = tmp_path / "whole.npz", tmp_path / "x.npz"
    run(model, colours / "test", output=whole)
    watched = embed.watched
    embed.watched = lambda *words: list(watched(*words))[:2]
    try:
        result = run(model, colours / "test", output=output)
        assert (result["status"], result["done"]) == ("interrupted", 10)
    finally:
        embed.watched = watched
    vectors = tmp_path / "x.npz.partial.vectors"
    with vectors.open("ab") as file:
        file.write(b"half a vector")
    assert run(model, colours / "test", output=output)["status"] == "finished"
    assert "going on after 10 images" in capsys.readouterr().err
    np.testing.assert_allclose(features(output), features(whole), rtol=0, atol=1e-6)
    assert not list(tmp_path.glob("*partial*"))


def test_python_call_and_what_it_refuses(model, colours, tmp_path):
    result = multicrop.embed(
        model, colours / "test", output=tmp_path / "x.npz", device="cpu", workers=1, normalize=True
    )
    assert result["normalize"] and np.linalg.norm(
        features(tmp_path / "x.npz"), axis=1
    ) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"--output x.csv: must end in .npz"):
        recipe(Recipe, model="m", images=("a",), output="x.csv")
    with pytest.raises(ValueError, match="leave the flag out"):
        run(model, colours / "test", output=tmp_path / "y.npz", embed_dim=32)
