"""config/flags.py: a recipe's parts as flags side by side, and back."""

from importlib import import_module

import pytest
from conftest import recipe

from multicrop import registry
from multicrop.config import finetune, pretrain
from multicrop.config.flags import changed_flags, flag_types, from_flags, to_flags

RECIPES = {
    name: import_module(f"multicrop.config.{name}").Recipe for name in registry.names("commands")
}
NEEDED = {"check": {"path": "p"}, "pack": {"path": "p", "out": "o"}, "visualise": {"run": "r"}}
NEEDED["knn"] = {"random_weights": True}


@pytest.mark.parametrize("command", RECIPES)
def test_flags_give_the_recipe_back(command):
    start = recipe(RECIPES[command], **NEEDED.get(command, {}))
    flags = to_flags(start)
    assert list(flags) == list(flag_types(RECIPES[command]))
    assert from_flags(RECIPES[command], flags) == start


@pytest.mark.parametrize("command", RECIPES)
def test_no_two_parts_have_a_flag_of_one_name(command):
    def names(part) -> list[str]:
        found = []
        for name, value in vars(part).items():
            found += names(value) if hasattr(value, "__dataclass_fields__") else [name]
        return found

    flags = names(recipe(RECIPES[command], **NEEDED.get(command, {})))
    assert len(flags) == len(set(flags))


def test_lists_become_tuples_and_names_of_other_versions_are_left_out():
    given = from_flags(pretrain.Recipe, {"blur": [1.0, 0.5, 0.0], "a flag of another version": 1})
    assert given.crops.blur == (1.0, 0.5, 0.0)
    assert changed_flags(given) == {"blur": [1.0, 0.5, 0.0]}


def test_a_part_keeps_the_defaults_of_its_recipe():
    assert recipe(pretrain.Recipe).run.output_dir == "runs/ssl"
    assert recipe(finetune.Recipe, log_freq=3).run.output_dir == "runs/finetune"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": -1.0}, "--lr -1.0: must be finite"),
        ({"image_size": 33}, "--image_size 33: must be even"),
    ],
)
def test_a_wrong_value_names_its_flag(values, message):
    with pytest.raises(ValueError, match=message):
        recipe(pretrain.Recipe, **values)
