"""--recipe auto in stage two: the rules, what is stated, what a run that is there keeps."""

import pytest
import yaml
from conftest import launch, result_of

from multicrop import cli
from multicrop.config.auto_finetune import finetune_choices
from multicrop.config.finetune import Recipe

SMALL = (
    "--scratch", "--arch", "vit", "--embed_dim", "16", "--num_layers", "1", "--num_heads", "2", "--image_size", "16",
    "--patch_size", "4", "--device", "cpu",
)  # fmt: skip


def chosen(images: int, parts: int = 1, **stated) -> dict:
    return {choice.name: choice.value for choice in finetune_choices(images, parts, stated)}


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
