"""Images of any number of channels, from the files to the report; and what a checkpoint says of its images' files."""

import json

import finetuning
import numpy as np
import pytest
import torch
from conftest import recipe
from PIL import Image

from multicrop import cli
from multicrop.augment import autoaugment, colour, jitter, randaugment, tone
from multicrop.commands import embed, finetune, knn, predict, pretrain, visualise
from multicrop.commands._conversion import conversion_of
from multicrop.config.data import DataSettings
from multicrop.config.embed import Recipe as Embed
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.knn import Recipe as Knn
from multicrop.config.predict import Recipe as Predict
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.config.visualise import Recipe as Visualise
from multicrop.datasets import _console, _look
from multicrop.datasets._convert import Conversion
from multicrop.engine import checkpoint
from multicrop.engine.metadata import Metadata
from multicrop.ssl.crops import MultiCrop


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path_factory.mktemp("cache")))
    _console.forget()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Augmentation


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_the_first_three_are_colours_and_each_other_channel_is_a_grey_image(channels):
    planes = torch.rand(channels, 5, 9, 9, generator=generator()) * 255
    order = torch.stack([torch.randperm(4, generator=generator(i)) for i in range(5)])
    factors = torch.tensor([[1.3, 0.6, 1.7, 0.2]]).expand(5, 4)
    found = colour.jitter_(planes.clone(), order, factors)
    coloured = 3 if channels > 3 else 1
    expected = [colour.jitter_(planes[:coloured].clone(), order, factors)]
    for channel in range(coloured, channels):
        expected.append(colour.jitter_(planes[channel : channel + 1].clone(), order, factors))
    assert torch.equal(found, torch.cat(expected))


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_crops_of_any_number_of_channels(channels):
    crop = MultiCrop(16, 8, 2, (0.5, 1), (0.2, 0.4), (0.5,) * channels, (0.2,) * channels)
    images = torch.randint(256, (4, channels, 20, 24), dtype=torch.uint8, generator=generator())
    found = crop(images, crop.draw(4, 20, 24, generator()))
    assert found.globals.shape == (2, 4, channels, 16, 16)
    assert found.locals.shape == (2, 4, channels, 8, 8)
    if channels > 3:
        rgb = MultiCrop(16, 8, 2, (0.5, 1), (0.2, 0.4), (0.5,) * 3, (0.2,) * 3)
        alone = rgb(images[:, :3], rgb.draw(4, 20, 24, generator()))
        assert torch.equal(found.globals[:, :, :3], alone.globals)


def test_further_channels_are_neither_grayscaled_nor_solarised():
    plain = {"jitter": 0.0, "blur": (0.0, 0.0, 0.0), "flip": 0.0}
    images = torch.randint(256, (4, 5, 16, 16), dtype=torch.uint8, generator=generator())
    crops = []
    for share in (0.0, 1.0):
        crop = MultiCrop(
            16,
            8,
            0,
            (1, 1),
            (0.2, 0.4),
            (0.5,) * 5,
            (0.2,) * 5,
            grayscale=share,
            solarise=share,
            **plain,
        )
        crops.append(crop(images, crop.draw(4, 16, 16, generator())).globals)
    assert torch.equal(crops[0][:, :, 3:], crops[1][:, :, 3:])
    assert not torch.equal(crops[0][1, :, :3], crops[1][1, :, :3])


@pytest.mark.parametrize("channels", [2, 5])
@pytest.mark.parametrize(
    "policy", [autoaugment.AutoAugment("cifar10"), randaugment.read("rand-m9")]
)
def test_policies_of_any_number_of_channels(channels, policy):
    images = torch.randint(256, (64, channels, 12, 12), dtype=torch.uint8, generator=generator())
    draws = policy.draw(64, generator())
    found = policy(images.clone(), draws)
    assert found.shape == images.shape and found.dtype == torch.uint8
    if channels > 3:
        assert torch.equal(found[:, :3], policy(images[:, :3].clone(), draws))


def test_of_the_tonal_operations_only_brightness_and_contrast_reach_further_channels():
    images = torch.randint(256, (3, 4, 8, 8), dtype=torch.uint8, generator=generator())
    factor = torch.full((3,), 1.5)
    for operation in (tone.brightness, tone.contrast):
        found = tone.on_colours(operation, images, factor)
        assert torch.equal(found[:, 3:], operation(images[:, 3:], factor))
    for operation in (tone.colour, tone.sharpness):
        found = tone.on_colours(operation, images, factor)
        assert torch.equal(found[:, 3:], images[:, 3:])
        assert torch.equal(found[:, :3], operation(images[:, :3], factor))
    assert torch.equal(tone.on_colours(tone.invert, images)[:, 3:], images[:, 3:])


def test_stage_twos_jitter_of_any_number_of_channels():
    images = torch.randint(256, (6, 4, 8, 8), dtype=torch.uint8, generator=generator())
    draws = jitter.draw(6, 0.4, generator())
    assert torch.equal(jitter.apply(images, draws)[:, :3], jitter.apply(images[:, :3], draws))


# From files to results

SIZES = {"image_size": 16, "embed_dim": 24, "num_layers": 1, "num_heads": 2}
SHORT = {
    **SIZES, "device": "cpu", "out_dim": 16, "local_crops_number": 2, "batch_size_per_gpu": 4, "epochs": 1,
    "knn_freq": 1, "log_freq": 1, "dataset": "image_folder",
}  # fmt: skip


def bands(folder, type_, count=8):
    """Two classes that only near infrared tells apart, which is in the alpha channel or the fourth of 12-bit pages."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name, level in (("dry", 0.25), ("wet", 0.9)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                image = rng.random((16, 16, 4)) * 0.8
                image[..., 3] = level * rng.uniform(0.8, 1, (16, 16))
                write(image, folder / split / name / str(i), type_)


def write(image, path, type_):
    if type_ == "png":
        Image.fromarray((image * 255).astype(np.uint8)).save(f"{path}.png")
        return
    pages = [Image.fromarray((image[..., c] * 4095).astype(np.uint16)) for c in range(4)]
    pages[0].save(f"{path}.tif", save_all=True, append_images=pages[1:])


@pytest.mark.parametrize("type_", ["png", "tif"])
def test_four_channels_through_both_stages(tmp_path, type_, capsys):
    data, first, second = tmp_path / "data", tmp_path / "ssl", tmp_path / "ft"
    bands(data, type_)
    pretrain.run(
        recipe(Pretraining, **SHORT, datapath=str(data), channels="all", output_dir=str(first))
    )
    metadata = checkpoint.load(first / "checkpoint.pt").metadata
    assert metadata.backbone["in_channels"] == 4 and len(metadata.data["mean"]) == 4
    assert metadata.data["channels"] == "all"
    wanted = {} if type_ == "png" else {"integers": [0, 4095]}
    assert metadata.data["value_range"] == wanted

    capsys.readouterr()
    found = knn.run(Knn((str(first),)))  # no word about channels or ranges
    assert "decoding" not in capsys.readouterr().err  # the same conversion: the same cache
    assert found["results"][0]["top1"]["10"] == 100  # raw pixels
    settings = {"epochs": 2, "batch_size": 4, "device": "cpu", "val_fraction": 0.0}
    finetune.run(
        recipe(Finetuning, **settings, pretrained_weights=str(first), output_dir=str(second))
    )
    described = checkpoint.load(second / "checkpoint.pt").metadata
    assert described.backbone["in_channels"] == 4
    for name in ("fit", "channels", "value_range"):
        assert described.data[name] == metadata.data[name]
    evaluated = finetune.run(
        recipe(Finetuning, eval=True, pretrained_weights=str(second), device="cpu")
    )
    assert "test_top1" in evaluated
    assert len(visualise.run(Visualise(str(first)))["pictures"]) == 3


COLOURS = {"L": 1, "RGB": 3, "RGBA": 4}


@pytest.fixture(scope="module")
def of_all_channels(tmp_path_factory):
    """Class folders of each of these modes, and a classifier that was trained on each with --channels all."""
    root, found = tmp_path_factory.mktemp("modes"), {}
    rng = np.random.default_rng(0)
    for mode, channels in COLOURS.items():
        for split in ("train", "test"):
            for name in ("dry", "wet"):
                folder = root / mode / split / name
                folder.mkdir(parents=True)
                for i in range(5):
                    pixels = rng.integers(0, 256, (16, 16, channels), np.uint8).squeeze()
                    Image.fromarray(pixels).save(folder / f"{i}.png")
        flags = {"channels": "all", "epochs": 1, "batch_size": 4, "image_size": 16}
        finetuning.run(root / mode, root / f"ft-{mode}", **finetuning.PLAIN, **flags)
        found[mode] = root / mode, root / f"ft-{mode}"
    return found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "trained, given, remedy",
    [
        ("RGBA", "RGB", "give files of 4 channels, or weights for 3"),
        ("RGBA", "L", "give files of 4 channels, or weights for 1"),
        ("RGB", "RGBA", "--channels 3 makes such of them"),
        ("L", "RGB", "--channels 1 makes such of them"),
    ],
)
def test_files_of_other_channels_than_the_weights_are_one_line(
    of_all_channels, tmp_path, capsys, trained, given, remedy, stream
):
    weights, images = str(of_all_channels[trained][1]), of_all_channels[given][0]
    wanted = f"have {_look.channels(COLOURS[given])}, and the network takes {COLOURS[trained]} .*: {remedy}"
    data = {"datapath": str(images), "dataset": "image_folder", "stream": stream, "device": "cpu"}
    words = {"images": (str(images / "test"),), "device": "cpu"}
    read = {
        "finetune": lambda **more: finetuning.run(images, tmp_path / "ft", pretrained_weights=weights, **more),
        "eval": lambda **more: finetuning.run(images, tmp_path, pretrained_weights=weights, eval=True, **more),
        "knn": lambda **more: knn.run(recipe(Knn, checkpoints=(weights,), **data, **more)),
        "predict": lambda **more: predict.run(
            recipe(Predict, model=weights, output=str(tmp_path / "p.csv"), **words, **more)
        ),
        "embed": lambda **more: embed.run(
            recipe(Embed, model=weights, output=str(tmp_path / "e.npz"), **words, **more)
        ),
    }  # fmt: skip
    for name, command in read.items():
        knn.load.cache_clear()
        flags = {}
        if name in ("finetune", "eval"):
            flags = {"stream": stream, "workers": 1, "batch_size": 4, "epochs": 1}
        with pytest.raises(ValueError, match=wanted):
            command(**flags)
        if remedy.startswith("--channels"):
            capsys.readouterr()
            command(**flags, channels=str(COLOURS[trained]))
    assert "unreadable image" not in capsys.readouterr().err


def test_images_that_are_no_files_are_refused_by_weights_for_other_channels(of_all_channels):
    _, weights = of_all_channels["RGBA"]
    flags = {"dataset": "shapes", "device": "cpu", "checkpoints": (str(weights),)}
    with pytest.raises(ValueError, match="is for images of 4 channels, and these have 3: give"):
        knn.run(recipe(Knn, **flags))


def test_without_the_flag_colours_are_used_and_it_is_said_once(tmp_path, capsys):
    bands(tmp_path / "data", "tif")
    output = str(tmp_path / "ssl")
    pretrain.run(recipe(Pretraining, **SHORT, datapath=str(tmp_path / "data"), output_dir=output))
    said = capsys.readouterr().err
    assert (
        said.count("16 files have 4 pages, the first is used; --channels all keeps them") == 2
    )  # of each split
    assert checkpoint.load(tmp_path / "ssl" / "checkpoint.pt").metadata.backbone["in_channels"] == 3


def test_images_that_are_no_files_are_not_converted_and_it_is_said():
    flags = {**SHORT, "dataset": "shapes", "channels": "1"}
    with pytest.raises(ValueError, match="--channels 1: the images of shapes are no files"):
        pretrain.run(recipe(Pretraining, **flags))


def test_a_run_is_resumed_with_its_conversion_and_refused_with_another(tmp_path):
    bands(tmp_path / "data", "tif")
    flags = {**SHORT, "datapath": str(tmp_path / "data"), "output_dir": str(tmp_path / "ssl")}
    pretrain.run(recipe(Pretraining, **flags, max_steps=1))
    with pytest.raises(ValueError, match="holds another run"):
        pretrain.run(recipe(Pretraining, **flags, value_range=(0.0, 500.0)))
    pretrain.run(recipe(Pretraining, **flags, value_range=(0.0, 4095.0)))  # the same pixels


def strips(folder):
    """48 x 96 px of noise; the class is where a bright mark is, two of four places near an edge."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name, (row, column) in {"a": (6, 2), "b": (30, 2), "c": (6, 84), "d": (30, 84)}.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(10):
                image = rng.integers(80, 150, (48, 96, 3)).astype(np.uint8)
                image[row : row + 10, column : column + 10] = (250, 40, 40)
                Image.fromarray(image).save(folder / split / name / f"{i}.png")


@pytest.mark.parametrize(
    ("fit", "top1"), [(None, 100), ("squeeze", 100), ("pad", 100), ("crop", 50)]
)
def test_a_mark_near_the_edge_is_found_unless_it_is_cropped_away(tmp_path, fit, top1):
    strips(tmp_path)
    flags = {"dataset": "image_folder", "datapath": str(tmp_path), "fit": fit, "nb_knn": (5,)}
    found = knn.run(recipe(Knn, arch="vit", random_weights=True, **SIZES, **flags))
    raw_pixels = found["results"][0]["top1"]["5"]
    assert raw_pixels == 100 if top1 == 100 else raw_pixels < top1


# What flags, weights and data sets say


def test_flags_go_before_weights_and_these_before_what_images_need():
    data = {"dataset": "image_folder", "mean": [0.5], "std": [0.2], "fit": "pad", "channels": "all"}
    trained = Metadata(
        "ssl", backbone={"in_channels": 5}, data={**data, "value_range": {"floats": [0, 7]}}
    )

    def found(metadata, dataset="image_folder", **flags):
        return conversion_of(DataSettings(**flags), dataset, metadata)

    assert found(None) == Conversion("auto") and found(None, "cifar10") == Conversion("crop")
    assert found(trained) == Conversion("pad", 5, True, None, (0, 7))
    assert found(trained, "cinic10") == found(trained)
    assert found(trained, fit="crop", channels="1") == Conversion("crop", 1, False, None, (0, 7))
    stated = found(trained, value_range=(1.0, 2.0))
    assert stated.integers == stated.floats == (1.0, 2.0)
    assert found(None, channels="all") == Conversion("auto", 0, True)
    older = Metadata("ssl", data={"dataset": "image_folder", "mean": [0.5], "std": [0.2]})
    assert found(older) == Conversion("crop", integers=(0.0, 65535.0))


@pytest.mark.parametrize("words", ["5 5", "9 1", "nan 1", "0 inf"])
def test_a_range_is_two_numbers(words):
    with pytest.raises(ValueError, match=r"--value_range .*the first below the second"):
        cli.parse(Pretraining, ["--value_range", *words.split()])


def test_flags_and_recipe_files_name_channels_alike(tmp_path):
    assert cli.parse(Pretraining, ["--channels", "1", "--fit", "pad"]).data.channels == "1"
    (tmp_path / "r.yaml").write_text(json.dumps({"channels": 1, "value_range": [0, 4095]}))
    data = cli.parse(Pretraining, ["--recipe", str(tmp_path / "r.yaml")]).data
    assert data.channels == "1" and data.value_range == (0, 4095)
