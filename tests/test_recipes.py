"""Every recipe file parses with the script that its header names, and its header says what to expect."""

import re

import pytest
from conftest import ROOT

import finetune
import train_ssl
from multicrop import cli
from multicrop.find import backbone, find
from multicrop.ssl.encoder import check_sizes

PARAMETERS = {  # of the published backbones, without classifier
    ("vit", 32): 2_695_680, ("vit", 64): 2_723_328, ("swin", 32): 7_044_762, ("swin", 64): 7_048_218,
    ("cait", 32): 8_051_520, ("cait", 64): 8_079_168,
}  # fmt: skip
SCRIPTS = {"train_ssl.py": train_ssl.Recipe, "finetune.py": finetune.Recipe}


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_parse_and_state_command_and_result(path):
    text = path.read_text()
    command = re.search(r"# Command: .*?(\w+\.py) .*--recipe (\S+)", text)
    assert command and command[2] == f"recipes/{path.name}"
    assert re.search(r"# (Expected|Published|Ours): \S", text)
    start = ["--scratch"] if command[1] == "finetune.py" else []
    cli.parse(SCRIPTS[command[1]], ["--recipe", str(path), *start])


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("gani2022_*_ssl.yaml")), ids=lambda path: path.stem)
def test_published_stage_one_recipes_build_the_published_networks(path):
    r = cli.parse(train_ssl.Recipe, ["--recipe", str(path)])
    assert (r.epochs, r.warmup_epochs, r.out_dim, r.lr, r.batch_size_per_gpu) == (200, 30, 1024, 1e-4, 256)
    assert r.teacher_drop_path and r.precision == "fp32" and r.teacher_temp == 0.07
    assert find("datasets", r.dataset).__name__.rpartition(".")[2] in path.stem
    body = backbone(**r.backbone(), in_channels=3)
    check_sizes(body, 3, r.image_size, r.image_size // 2)
    assert sum(p.numel() for p in body.parameters()) == PARAMETERS[r.arch, r.image_size]


def test_the_published_finetuning_recipe_has_what_the_defaults_mend():
    path = ROOT / "recipes" / "gani2022_finetune.yaml"
    r = cli.parse(finetune.Recipe, ["--recipe", str(path), "--scratch"])
    assert (r.val_fraction, r.re_fill, r.flips("svhn"), r.precision) == (0.0, "published", 0.5, "fp32")
