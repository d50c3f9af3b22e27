"""config/flags.py: recipes are made of parts, and their settings stand side by side as flags."""

from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from typing import get_args, get_type_hints

import pytest
import torch
import yaml
from conftest import ROOT, recipe

from multicrop import cli
from multicrop.config import finetune, knn, pretrain
from multicrop.config.flags import aliases, changed_flags, flag_types, from_flags, to_flags

COMMANDS = sorted(path.stem for path in (ROOT / "commands").glob("[!_]*.py"))
NEEDED = {  # what has no default, or must be said
    "advise": {"path": "photos"},
    "check": {"path": "photos"},
    "embed": {"model": "runs/ssl", "images": ["photos"]},
    "export": {"model": "runs/ft", "to": "onnx"},
    "knn": {"arch": "vit"},
    "labels": {"model": "runs/ssl"},
    "linear": {"model": "runs/ssl"},
    "pack": {"path": "photos", "output_dir": "packed"},
    "predict": {"model": "runs/ft", "images": ["photos"]},
    "report": {"paths": ["photos"]},
    "robustness": {"model": "runs/finetune"},
    "visualise": {"run": "runs/ssl"},
}
CHANGED = {  # one setting of each kind: a number, a switch, words, several numbers, None for a number
    "advise": {"steps": 100, "dry": True, "output_dir": "runs/a"},
    "check": {"workers": 2, "decode": False},
    "embed": {"block": 2, "normalize": True, "output": "features.parquet"},
    "export": {"input": "uint8", "resize": True, "images": 3, "datapath": "photos"},
    "finetune": {
        "eval": True, "embed_dim": 24, "datapath": "photos", "val_fraction": 0.25, "crop_scale": [0.2, 1.0],
        "aa": False, "no_decay": ["cls_token", "*pos_embed*"], "decay": "matrices", "drop_rate": 0.0,
        "teacher": "runs/a", "guidance": "linear", "guide_teacher": ["s1", "s2"],
    },
    "knn": {
        "checkpoints": ["a.pt", "runs/b"], "nb_knn": [5], "image_size": 64, "max_train_images": 10, "seed": 3,
        "linear": True,
    },
    "labels": {"fractions": [1.0, 50.0], "draws": 5, "finetune": True, "finetune_epochs": 3, "datapath": "photos"},
    "linear": {"probe": "sgd", "n_last_blocks": 1, "lr": [0.001], "epochs": 5, "avgpool_patchtokens": True},
    "pack": {"dataset": "images"},
    "precompute": {"teacher": "runs/a", "guide_teacher": ["s3"], "stream": True, "dtype": "float32", "device": "cpu"},
    "predict": {"topk": 3, "tta": True, "unknown_below": 0.5, "output": "rows.jsonl"},
    "pretrain": {
        "arch": "swin", "image_size": 64, "source_size": 96, "objective": "simclr", "local_crops_number": 0,
        "blur": [0.0, 0.5, 1.0], "lr": 1e-3, "compile": True, "max_steps": 5,
    },
    "report": {"parts": ["run", "data"], "every": 2.0, "images": 100, "watch": True, "datapath": "photos"},
    "robustness": {"corruptions": ["fog", "snow"], "severities": [3], "published": "CIFAR-10-C", "seed": 2},
    "visualise": {"images": 3, "datapath": "photos"},
    "weights": {"words": ["cct", "cifar10"], "download": True},
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    rate: float = 1.0
    steps: int = 10


@dataclass(frozen=True)
class Whole:
    part: Part = Part(rate=2.0)
    name: str = "a"


def recipe_of(command: str) -> type:
    return import_module(f"multicrop.config.{command}").Recipe


def settings_of(recipe_type: type) -> list[str]:
    """Every setting's name, of all parts, also where two parts have one of the same name."""
    names = []
    hints = get_type_hints(recipe_type)
    for field in fields(recipe_type):
        part = hints[field.name]
        names += settings_of(part) if is_dataclass(part) else [field.name]
    return names


@pytest.mark.parametrize("command", COMMANDS)
def test_no_two_parts_have_a_flag_of_one_name(command):
    names = [name for name in settings_of(recipe_of(command)) if name != "given"]  # no flag
    assert len(names) == len(set(names)) and set(names) == set(flag_types(recipe_of(command)))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_recipe_comes_back_from_its_flags(command):
    recipe_type = recipe_of(command)
    for values in (NEEDED.get(command, {}), NEEDED.get(command, {}) | CHANGED[command]):
        own = recipe(recipe_type, **values)
        flags = to_flags(own)
        assert set(flags) == set(flag_types(recipe_type))
        assert {name: flags[name] for name in values} == values
        assert from_flags(recipe_type, flags) == own


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_are_plain_values(command, tmp_path):
    """So that a recipe file and a checkpoint, read without running code, give the recipe back."""
    recipe_type = recipe_of(command)
    own = recipe(recipe_type, **NEEDED.get(command, {}) | CHANGED[command])
    flags = to_flags(own)
    assert yaml.safe_load(yaml.safe_dump(flags)) == flags
    torch.save(flags, tmp_path / "flags.pt")
    assert from_flags(recipe_type, torch.load(tmp_path / "flags.pt", weights_only=True)) == own


def test_each_value_reaches_its_part():
    own = recipe(pretrain.Recipe, lr=0.5, blur_sigma=[0.2, 0.3], datapath="photos", device="cpu")
    assert own.optimisation.lr == 0.5 and own.crops.blur_sigma == (0.2, 0.3)
    assert own.data.datapath == "photos" and own.run.device == "cpu"
    assert own.method == pretrain.Method()  # the other parts keep their defaults
    assert recipe(knn.Recipe, checkpoints=["a.pt"]).checkpoints == ("a.pt",)


def test_a_part_keeps_the_defaults_that_its_recipe_gives_it():
    assert from_flags(Whole, {"steps": 3}) == Whole(Part(2.0, 3))
    assert changed_flags(from_flags(Whole, {"steps": 3})) == {"steps": 3}


def test_unknown_names_are_left_out():
    """A stored recipe may be of another version."""
    own = from_flags(pretrain.Recipe, {"lr": 0.5, "mlp_head_out": 3, "optimisation": {"lr": 1.0}})
    assert own == recipe(pretrain.Recipe, lr=0.5)


def test_what_differs_from_the_defaults():
    assert changed_flags(pretrain.Recipe()) == {} == changed_flags(finetune.Recipe())
    values = CHANGED["finetune"] | {"epochs": 100}  # 100 is the default
    changed = changed_flags(recipe(finetune.Recipe, **values))
    assert changed == CHANGED["finetune"]


def numbers_of(command: str) -> list[str]:
    """The flags that take a number, or several."""
    names = []
    for name, hint in flag_types(recipe_of(command)).items():
        if {int, float} & {hint, *get_args(hint)}:
            names.append(name)
    return names


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command in COMMANDS for name in numbers_of(command)]
)
def test_a_number_that_cannot_be_names_its_flag(command, name):
    needed = NEEDED.get(command, {})
    value = to_flags(from_flags(recipe_of(command), needed))[name]
    wrong = [-7] * len(value) if isinstance(value, list) else -7
    with pytest.raises(ValueError, match=rf"^--{name} -7.*: \w+") as error:
        recipe(recipe_of(command), **needed | {name: wrong})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("command", "values", "message"),
    [
        ("pretrain", {"image_size": 33}, "--image_size 33: must be even"),
        ("pretrain", {"blur_sigma": [2.0, 1.0]}, "--blur_sigma 2.0 1.0: must be a lower and an"),
        ("pretrain", {"lr": float("inf")}, "--lr inf: must be finite"),
        ("finetune", {"ra": 3, "repeats": 2}, "--repeats 2: shows a part of the images"),
        ("finetune", {"guidance": "linear"}, "--guidance linear: needs --teacher FILE"),
        ("knn", {"save_features": "a.npz"}, "--save_features a.npz: must end in"),
        ("linear", {"epochs": 5}, "--epochs 5: is for --probe sgd"),
        ("linear", {"probe": "sgd", "linear_c": [1.0]}, "--linear_c 1.0: is for --probe logistic"),
        (
            "labels",
            {"finetune_epochs": 5},
            "--finetune_epochs 5: needs --finetune true or --scratch",
        ),
        ("labels", {"knn": False, "linear": False}, "nothing to measure: one of --knn"),
    ],
)
def test_a_wrong_value_names_its_flag(command, values, message):
    with pytest.raises(ValueError) as error:
        recipe(recipe_of(command), **NEEDED.get(command, {}) | values)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("command", COMMANDS)
def test_one_spelling_of_a_flag_for_one_meaning(command):
    """As CONTRIBUTING.md has it; what else people type is an alias."""
    recipe_type = import_module(f"multicrop.config.{command}").Recipe
    names = set(flag_types(recipe_type))
    written = {name for name in names if name.startswith(("out", "dest", "to_"))}
    assert written <= {"output", "output_dir", "out_dim", "outlier"}
    batches = {name for name in names if "batch" in name}
    assert batches <= {"batch_size", "batch_size_per_gpu", "lr_batch"}
    learns_with_all = "lr_batch" in names or command == "labels"
    if "batch_size" in batches and not learns_with_all:
        assert "batch_size_per_gpu" in {*batches, *aliases(recipe_type)}
    assert not names & aliases(recipe_type).keys()


@pytest.mark.parametrize(
    ("command", "words", "own"),
    [
        ("export", ["runs/ft", "--to", "onnx", "--out", "a.onnx"], "--output"),
        ("pack", ["photos", "--out=packed"], "--output_dir"),
        ("precompute", ["--output", "features"], "--output_dir"),
        ("predict", ["runs/ft", "photos", "--batch-size-per-gpu", "8"], "--batch_size"),
        ("knn", ["runs/ssl", "--batch_size_per_gpu", "8"], "--batch_size"),
    ],
)
def test_another_spelling_is_the_same_flag(command, words, own, tmp_path):
    recipe_type = import_module(f"multicrop.config.{command}").Recipe
    flag = next(word for word in words if word.startswith("--") and word != "--to")
    plain = [word.replace(flag.partition("=")[0], own) for word in words]
    assert cli.parse(recipe_type, words) == cli.parse(recipe_type, plain)
    name, value = flag.partition("=")[0].lstrip("-").replace("-", "_"), plain[-1].rpartition("=")[2]
    (tmp_path / "recipe.yaml").write_text(f"{name}: {value}\n")
    kept = words[: words.index(flag)]
    assert cli.parse(recipe_type, [*kept, "--recipe", str(tmp_path / "recipe.yaml")]) == cli.parse(
        recipe_type, plain
    )
