"""--image_size HEIGHT WIDTH: images that are not square, from the files to the accuracies."""

import json

import numpy as np
import pytest
import timm
import torch
from conftest import content_of, recipe
from PIL import Image

import multicrop.timm_models  # noqa: F401  # registers the names
from multicrop import cli, registry
from multicrop.augment.evaluation import EvalTransform
from multicrop.commands import check, finetune, knn, precompute, pretrain
from multicrop.config.check import Recipe as Check
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.knn import Recipe as Probing
from multicrop.config.precompute import Recipe as Storing
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.datasets import _console
from multicrop.datasets._cache import load_cached
from multicrop.datasets._convert import Conversion
from multicrop.datasets._folders import Listing, image_set
from multicrop.datasets._images import LoadOptions
from multicrop.models import compact, vit
from multicrop.probes.pixels import RawPixels
from multicrop.ssl.crops import MultiCrop
from multicrop.supervised.augmentation import TrainTransform

NETWORK = {"embed_dim": 16, "num_layers": 1, "num_heads": 2, "patch_size": 4}
TAKE_RECTANGLES = {"compact", "deit", "resnet", "timm", "vit"}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MULTICROP_CACHE", str(folder))
        yield folder


def strip(label: int, seed: int, height=16, width=32) -> np.ndarray:
    """Grey noise with a bright bar at the left or the right edge, which a centre square does not show."""
    pixels = np.random.default_rng(seed).integers(0, 60, (height, width, 3), dtype=np.uint8)
    edge = slice(0, width // 8) if label == 0 else slice(width - width // 8, width)
    pixels[:, edge] = 255
    return pixels


@pytest.fixture(scope="module")
def strips(tmp_path_factory):
    """32 x 16 px: 10 + 4 images of two classes."""
    root = tmp_path_factory.mktemp("strips")
    for split, count in (("train", 10), ("test", 4)):
        for label, name in enumerate(("left", "right")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(strip(label, 1000 * label + 100 * count + i))
                image.save(root / split / name / f"{i:02d}.png")
    return root


@pytest.fixture(scope="module")
def pretrained(strips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "ssl"
    settings = {
        "dataset": "image_folder",
        "datapath": str(strips),
        "image_size": (16, 32),
        "device": "cpu",
    }
    crops = {
        "local_crops_number": 2,
        "out_dim": 16,
        "batch_size_per_gpu": 10,
        "epochs": 1,
        "crop_flip": 0.0,
    }
    pretrain.run(recipe(Pretraining, **settings, **crops, **NETWORK, output_dir=str(folder)))
    return folder


@pytest.fixture(scope="module")
def finetuned(pretrained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "ft"
    start = {"pretrained_weights": str(pretrained), "output_dir": str(folder), "device": "cpu"}
    plain = {
        "epochs": 30,
        "batch_size": 18,
        "ra": 1,
        "aa": False,
        "cm": False,
        "mu": False,
        "re": 0.0,
        "lr": 3e-2,
    }
    result = finetune.run(recipe(Finetuning, **start, **plain))
    return folder, result


# The command line


def test_one_number_or_two_from_the_command_line_and_from_a_recipe_file(tmp_path):
    parse = lambda *words: cli.parse(Pretraining, list(words)).backbone.image_size  # noqa: E731
    assert parse() == 32
    assert parse("--image_size", "48") == 48
    assert parse("--image_size", "32", "64", "--epochs", "1") == (32, 64)
    assert parse("--image_size", "32x64") == (32, 64)
    assert parse("--image_size", "32", "32") == 32
    (tmp_path / "r.yaml").write_text("image_size: [32, 64]\n")
    assert parse("--recipe", str(tmp_path / "r.yaml")) == (32, 64)
    probe = cli.parse(Probing, ["--image_size", "32", "runs/a", "runs/b"])
    assert probe.backbone.image_size == 32 and probe.checkpoints == ("runs/a", "runs/b")
    probe = cli.parse(Probing, ["--image_size", "32", "64", "runs/a"])
    assert probe.backbone.image_size == (32, 64) and probe.checkpoints == ("runs/a",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["31", "64"], "--image_size 31 64: must be even"),
        (["32", "0"], "--image_size 32 0: must be at least 1"),
        (["a"], "'a' is neither a side in pixels nor a height and a width"),
        (["8x8x8"], "'8x8x8' is neither a side in pixels nor a height and a width"),
    ],
)
def test_sizes_that_are_none(words, message):
    with pytest.raises(ValueError) as error:
        cli.parse(Pretraining, ["--image_size", *words])
    assert message in str(error.value) and "\n" not in str(error.value)


# Networks


@pytest.mark.parametrize("arch", registry.names("models"))
def test_every_architecture_takes_rectangles_or_refuses_them_in_one_line(arch):
    name = "timm:test_vit" if arch == "timm" else arch
    if arch in TAKE_RECTANGLES:
        network = registry.backbone(name, (32, 64)).eval()
        assert network(torch.zeros(1, 3, 32, 64)).shape == (1, network.dim)
        assert network(torch.zeros(1, 3, 16, 32)).shape == (1, network.dim)
        return
    with pytest.raises(
        ValueError, match="takes square images, and --image_size is 32 x 64"
    ) as error:
        registry.backbone(name, (32, 64))
    assert "vit" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arch", "options"), [("vit", {}), ("deit", {}), ("cct_2", {}), ("resnet20", {})]
)
def test_a_square_in_two_numbers_is_the_square(arch, options):
    images = torch.rand(2, 3, 32, 32)
    outputs = []
    for size in (32, (32, 32), [32, 32]):
        torch.manual_seed(0)
        outputs.append(registry.backbone(arch, size, **options).eval()(images))
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def test_patches_tile_height_and_width():
    assert registry.backbone("vit", (32, 48)).patch_size == 4
    assert registry.backbone("vit", (32, 40)).patch_size == 4
    with pytest.raises(ValueError, match="patch size 8 does not divide image size 36"):
        registry.backbone("vit", (32, 36), patch_size=8)


@pytest.mark.parametrize(
    ("module", "key", "prefix"), [(vit, "pos_embed", 1), (compact, "transformer.positional_emb", 0)]
)
def test_position_tables_of_rectangles_are_resampled_as_rectangles(module, key, prefix):
    """Rows stay rows: a table of row numbers is one at any other size, also where the number of places is the same."""
    saved = module.build((32, 64))
    state = saved.state_dict()
    rows, columns = (8, 16) if module is vit else (16, 32)
    numbers = torch.arange(rows).float().repeat_interleave(columns)
    state[key][:, prefix:] = numbers[None, :, None]
    for size in ((32, 32), (64, 32), (64, 128)):
        model = module.build(size, **({"patch_size": 4} if module is vit else {}))
        table = module.adapt(state, model, (32, 64))[key]
        places = rows * size[0] // 32, columns * size[1] // 64
        assert table.shape[1] == prefix + places[0] * places[1]
        found = table[0, prefix:, 0].unflatten(0, places)
        assert torch.allclose(found, found[:, :1].expand_as(found), atol=1e-4)
        assert found[-1, 0] > rows - 2 and found[0, 0] < 1


# From files to crops


@pytest.mark.parametrize("fit", ["crop", "squeeze", "pad"])
@pytest.mark.parametrize("stream", [False, True])
def test_files_are_brought_to_the_shape(tmp_path, fit, stream):
    for i in range(3):
        Image.fromarray(strip(i % 2, i, height=20, width=60)).save(tmp_path / f"{i}.png")
    options = LoadOptions(
        source_size=(16, 32), conversion=Conversion(fit), stream=stream, workers=1
    )
    images = image_set(Listing(tmp_path, [f"{i}.png" for i in range(3)], None, ()), options)
    pixels = images.pixels[torch.arange(3)]
    assert pixels.shape == (3, 3, 16, 32)
    assert (pixels[0, 0, 8] > 200).any() == (fit != "crop")
    if fit == "pad":
        assert len(pixels[0, 0, :2].unique()) == 1  # a border of the mean colour, above


def test_files_of_the_shape_are_stored_as_they_are_and_nothing_is_said(strips, capsys):
    _console.forget()
    names = [f"train/left/{i:02d}.png" for i in range(10)]
    cached = load_cached(strips, names, (32, 64))
    assert cached.pixels.shape == (10, 3, 16, 32)
    assert torch.equal(cached.pixels[0], torch.tensor(strip(0, 1000)).permute(2, 0, 1))
    assert capsys.readouterr().err == ""
    assert load_cached(strips, names, 32).pixels.shape == (10, 3, 32, 32)


def test_crops_keep_the_proportions_of_rectangles():
    make = MultiCrop(
        (32, 64), (16, 32), 3, (0.5, 1.0), (0.2, 0.4), mean=(0.5,) * 3, std=(0.25,) * 3
    )
    parameters = make.draw(64, 32, 64, torch.Generator().manual_seed(0))
    crops = make(torch.randint(256, (64, 3, 32, 64), dtype=torch.uint8), parameters)
    assert crops.globals.shape == (2, 64, 3, 32, 64) and crops.locals.shape == (3, 64, 3, 16, 32)
    _, _, height, width = parameters.locals.box.flatten(0, 1).double().unbind(-1)
    ratio = (width / height / 2).log()
    assert abs(ratio.mean()) < 0.05 and ratio.abs().max() < 0.45  # log(4 / 3), and rounding


def test_transforms_of_rectangles():
    images = torch.randint(256, (4, 3, 16, 32), dtype=torch.uint8)
    half = (0.5,) * 3
    assert EvalTransform((16, 32), half, half)(images).shape == (4, 3, 16, 32)
    assert EvalTransform((8, 16), half, half, crop_pct=0.8)(images).shape == (4, 3, 8, 16)
    train = TrainTransform((16, 32), half, half, policy="cifar10")
    draws = train.draw(4, torch.Generator().manual_seed(0))
    assert train(images, draws).shape == (4, 3, 16, 32)
    raw = RawPixels(3, (48, 96))
    assert raw(torch.zeros(2, 3, 48, 96)).shape == (2, raw.dim) and raw.dim == 3 * 16 * 32


# Through the commands


def test_pretraining_stores_the_size_as_two_numbers(pretrained):
    content = content_of(pretrained / "checkpoint.pt")
    assert content["backbone"]["image_size"] == (16, 32)
    assert content["recipe"]["image_size"] == [16, 32]
    assert content["student"]["backbone.pos_embed"].shape == (1, 1 + 4 * 8, 16)


def test_the_probe_sees_what_is_at_the_edge(pretrained):
    result = knn.run(recipe(Probing, checkpoints=(str(pretrained),), nb_knn=(5,), device="cpu"))
    pixels = result["results"][0]
    assert pixels["checkpoint"] == "raw pixels" and pixels["image_size"] == (16, 32)
    assert pixels["top1"]["5"] == 100


def test_finetuning_takes_the_size_over_and_eval_agrees(strips, finetuned, tmp_path):
    folder, result = finetuned
    assert content_of(folder / "checkpoint.pt")["backbone"]["image_size"] == (16, 32)
    settings = {
        "eval": True,
        "pretrained_weights": str(folder),
        "output_dir": str(tmp_path / "out"),
    }
    evaluated = finetune.run(recipe(Finetuning, **settings, device="cpu"))
    assert (evaluated["images"], evaluated["test_top1"]) == (8, result["test_top1"])


def test_weights_go_to_another_shape(pretrained, strips, tmp_path):
    settings = {"pretrained_weights": str(pretrained), "image_size": (32, 32), "device": "cpu"}
    short = {"epochs": 1, "batch_size": 18, "max_steps": 1, "output_dir": str(tmp_path)}
    finetune.run(recipe(Finetuning, **settings, **short))
    content = content_of(tmp_path / "checkpoint.pt")
    assert content["backbone"]["image_size"] == 32
    assert content["model"]["backbone.pos_embed"].shape == (1, 1 + 8 * 8, 16)


def test_a_teachers_maps_of_rectangles(finetuned, strips, tmp_path):
    teacher = {"teacher": str(finetuned[0]), "output_dir": str(tmp_path / "maps"), "device": "cpu"}
    result = precompute.run(recipe(Storing, **teacher))
    assert list(result["maps"].values()) == [[16, 4, 8]]
    plain = {
        "aa": False,
        "cm": False,
        "mu": False,
        "mix_prob": 0.0,
        "scratch": True,
        "max_steps": 1,
    }
    guided = {"guidance": "linear", "guidance_features": str(tmp_path / "maps"), "batch_size": 18}
    data = {"dataset": "image_folder", "datapath": str(strips), "image_size": (16, 32)}
    run = {"output_dir": str(tmp_path / "ft"), "device": "cpu", "ra": 1, "epochs": 1}
    finetune.run(recipe(Finetuning, **plain, **guided, **data, **run, **NETWORK))


def test_timm_gets_the_size_of_the_file(finetuned):
    overlay = {"file": str(finetuned[0] / "checkpoint.pt")}
    model = timm.create_model(
        "multicrop_vit", pretrained=True, pretrained_cfg_overlay=overlay
    ).eval()
    assert model.pretrained_cfg["input_size"] == (3, 16, 32)
    assert model(torch.zeros(1, 3, 16, 32)).shape == (1, 2)


def test_check_says_what_another_shape_would_lose(strips, capsys):
    result = check.run(Check(str(strips)))
    assert result["train"]["beyond_centre"] == 0.5
    assert "(else --fit crop or pad, or --image_size HEIGHT WIDTH)" in " ".join(
        result["train"]["notes"]
    )
    result = check.run(Check(str(strips), image_size=(16, 32)))
    assert result["train"]["beyond_centre"] == 0 and result["train"]["notes"] == []
    assert "--image_size 16 32" in result["commands"][0]
    json.dumps(result)
