"""--recipe auto in stage two: the rules, what is stated, what a run that is there keeps."""

from dataclasses import replace

import pytest
import torch
import yaml
from conftest import launch, result_of

from multicrop import cli, registry
from multicrop.commands import _auto
from multicrop.commands import finetune as command
from multicrop.commands._networks import count_weights
from multicrop.config.auto_finetune import finetune_choices
from multicrop.config.backbone import BackboneSettings
from multicrop.config.finetune import Recipe
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.datasets import _folders, shapes
from multicrop.weights import pretrained

SMALL = (
    "--scratch", "--arch", "vit", "--embed_dim", "16", "--num_layers", "1", "--num_heads", "2", "--image_size", "16",
    "--patch_size", "4", "--device", "cpu",
)  # fmt: skip


def chosen(images: int, parts: int = 1, weights: int | None = None, **stated) -> dict:
    choices = finetune_choices(images, parts, stated, weights)
    return {choice.name: choice.value for choice in choices}


def test_small_sets_get_many_small_steps_and_no_policy_in_short_runs():
    signs = chosen(3531)
    assert signs["batch_size"] == 64 and signs["ra"] == 1
    assert signs["epochs"] == 100 and signs["warmup"] == 5
    assert (signs["aa"], signs["cm"], signs["mu"], signs["re"]) == (False, False, False, 0)


def test_larger_sets_get_about_as_many_steps():
    assert 7500 < chosen(20_000)["epochs"] * (20_000 // 64) < 8500


def test_long_runs_keep_the_published_augmentation():
    assert "aa" not in chosen(3531, epochs=300)
    assert "aa" not in chosen(3531, epochs=100, ra=3)
    assert chosen(3531, epochs=60, ra=3)["aa"] is False


def test_small_networks_learn_at_a_higher_rate_within_a_limit_of_the_gradient():
    small = chosen(3531, weights=280_000)
    assert small["lr"] == 3e-3 and small["clip_grad"] == 1
    large = chosen(3531, weights=2_700_000)
    assert large["lr"] == 1e-3 and "clip_grad" not in large


@pytest.mark.parametrize(
    "stated", [{"lr": 1e-3}, {"lr_batch": 512}, {"optimizer": "sgd"}, {"freeze_backbone": True}]
)
def test_a_stated_rule_of_the_rate_is_left_alone(stated: dict):
    assert not {"lr", "clip_grad"} & chosen(3531, weights=280_000, **stated).keys()


def test_weights_are_counted_without_making_the_network():
    options = {"arch": "cct_2_3x2_32", "image_size": 32}
    made = registry.backbone(**options)
    assert count_weights(options) == sum(weights.numel() for weights in made.parameters())


def test_a_network_that_reads_values_while_it_is_made_keeps_the_published_rate(monkeypatch):
    monkeypatch.setattr(registry, "backbone", lambda **options: torch.linspace(0, 1, 3)[1].item())
    assert count_weights({"arch": "own"}) is None
    assert "lr" not in chosen(3531, weights=None)


def test_repeats_keep_their_passes():
    assert "ra" not in chosen(3531, repeats=3)


@pytest.mark.parametrize("parts", [1, 3, 8, 100])
@pytest.mark.parametrize("images", [2, 20, 200, 5000, 60_000])
def test_batches_come_out_even_and_settings_hold(images: int, parts: int):
    values = chosen(images, parts)
    assert values["batch_size"] % parts == 0
    assert cli.parse(Recipe, ["--scratch", *cli.words_of(values)]).optimisation.epochs >= 10


def test_an_epoch_of_a_small_set_has_several_steps():
    assert chosen(200)["batch_size"] == 16 and chosen(20)["batch_size"] == 8


def test_a_batch_is_never_larger_than_the_set():
    assert chosen(6)["batch_size"] == 6 and chosen(3, parts=2)["batch_size"] == 2


def finetune(images, folder, *more):
    words = ("--dataset", "image_folder", "--datapath", images, "--output_dir", folder)
    return launch("finetune.py", *words, *SMALL, *more)


def recipe_of(folder) -> dict:
    return yaml.safe_load((folder / "recipe.yaml").read_text())


def test_ones_own_images_get_it_and_every_choice_has_a_reason(colours, tmp_path):
    done = finetune(colours, tmp_path / "run", "--epochs", "2", "--cm", "true")
    assert done.returncode == 0, done.stderr
    kept = recipe_of(tmp_path / "run")
    assert kept["ra"] == 1 and kept["aa"] is False and kept["sd"] == 0
    assert kept["lr"] == 3e-3 and kept["clip_grad"] == 1  # of a few thousand weights
    network = pretrained.read(tmp_path / "run").metadata.backbone
    assert network["drop_path_rate"] == 0
    more = finetune(colours, tmp_path / "run", "--epochs", "2", "--cm", "true", "--lr", "3e-3")
    assert more.returncode == 0, more.stderr
    assert kept["epochs"] == 2 and kept["cm"] is True  # stated
    assert (
        "--aa false: 2 passes over the images: what was published for 300 needs 200" in done.stderr
    )
    assert "--epochs" not in done.stderr.split("--recipe auto")[1].split("recipe:")[0]


def test_published_values_on_request_and_for_published_data_sets(colours, tmp_path):
    done = finetune(
        colours, tmp_path / "run", "--epochs", "1", "--recipe", "published", "--batch_size", "16"
    )
    assert done.returncode == 0, done.stderr
    kept = recipe_of(tmp_path / "run")
    assert kept["ra"] == 3 and kept["aa"] is True
    assert "--recipe auto" not in done.stderr


def test_a_run_that_is_there_keeps_what_was_chosen_for_it(colours, tmp_path):
    stopped = finetune(
        colours, tmp_path, "--recipe", "published", "--epochs", "2", "--batch_size", "8", "--max_steps", "2"
    )  # fmt: skip
    assert stopped.returncode == 0, stopped.stderr
    resumed = finetune(colours, tmp_path, "--epochs", "2", "--batch_size", "8")
    assert resumed.returncode == 0, resumed.stderr
    assert "goes on with the settings that were chosen for it" in resumed.stderr
    assert recipe_of(tmp_path)["ra"] == 3 and result_of(resumed)["status"] == "finished"


# The network of random weights


def scratch(images, folder, *words):
    flags = ("--dataset", "image_folder", "--datapath", str(images), "--output_dir", str(folder))
    more = ("--device", "cpu", "--epochs", "1", "--batch_size", "12")
    return command.run(cli.parse(Recipe, [*flags, "--scratch", *more, *words]))


def stage_ones(images) -> dict:
    """The network that --recipe auto takes in stage one."""
    words = ["--dataset", "image_folder", "--datapath", str(images), "--epochs", "1"]
    recipe = _auto.fill_in(cli.parse(Pretraining, words), lambda recipe, images: 0.0)
    names = BackboneSettings.__dataclass_fields__
    return {name: v for name, v in recipe.backbone.options().items() if name in names}


def test_from_random_weights_it_is_stage_ones_network_and_that_is_said(colours, tmp_path, capsys):
    wanted = stage_ones(colours)
    capsys.readouterr()
    scratch(colours, tmp_path / "run", "--max_steps", "1")
    said = capsys.readouterr().err
    kept = recipe_of(tmp_path / "run")
    assert {name: kept[name] for name in wanted} == wanted and kept["arch"] == "cct_2_3x2_32"
    assert "no --arch: the network that it takes in stage one" in said
    assert "--arch cct_2_3x2_32: " in said and "--standardise" in said
    # a run that is there keeps it
    scratch(colours, tmp_path / "run", "--max_steps", "2")
    assert "--arch cct_2_3x2_32: " not in capsys.readouterr().err
    assert recipe_of(tmp_path / "run")["arch"] == "cct_2_3x2_32"


@pytest.mark.parametrize(
    "words, expected",
    [
        (("--arch", "vit", "--image_size", "16", "--num_layers", "1"), {"embed_dim": None, "stem": None}),
        (("--recipe", "published", "--ra", "1", "--num_layers", "1"), {"embed_dim": None, "arch": None}),
        (("--embed_dim", "24", "--num_layers", "1"), {"embed_dim": 24, "num_heads": 4, "stem": "conv"}),
    ],
)  # fmt: skip
def test_what_is_stated_of_the_network_stays(colours, tmp_path, words, expected):
    scratch(colours, tmp_path, *words, "--max_steps", "1")
    kept = recipe_of(tmp_path)
    assert {name: kept[name] for name in expected} == expected


def test_binary_sets_are_looked_at_once_they_are_read(tmp_path, monkeypatch):
    whole = shapes.load

    def few(root, split, *options):
        return whole(root, split, *options, train_images=40, test_images=10)

    monkeypatch.setattr(shapes, "DATASET", replace(shapes.DATASET, load=few))
    flags = ("--dataset", "shapes", "--output_dir", str(tmp_path), "--device", "cpu")
    more = ("--epochs", "1", "--batch_size", "12", "--max_steps", "1")
    command.run(cli.parse(Recipe, [*flags, "--scratch", "--recipe", "auto", *more]))
    kept = recipe_of(tmp_path)
    assert (kept["arch"], kept["image_size"]) == ("cct_2_3x2_32", 32)
    assert kept["padding_fill"] == ("edge" if kept["standardise"] else "black")


@pytest.mark.parametrize(
    "start", [("--patch_size", "5"), ("--embed_dim", "30", "--num_heads", "4")]
)
@pytest.mark.parametrize("recipe", ["auto", "published"])
def test_sizes_that_clash_are_said_before_images_are_decoded(
    colours, tmp_path, monkeypatch, start, recipe
):
    """Also where the images say at which size the network sees them."""

    def decoded(*_):
        raise AssertionError("images were decoded")

    monkeypatch.setattr(_folders, "load_cached", decoded)
    with pytest.raises(ValueError, match=r"patch size 5|divisible by|heads"):
        scratch(colours, tmp_path / "run", *start, "--recipe", recipe)
