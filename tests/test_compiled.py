"""engine/compiled.py: compiled steps equal plain ones, and where the compiler fails, plain ones are what is done."""

from dataclasses import dataclass

import pytest
import test_device
import torch
import torch.nn as nn
from conftest import recipe, same
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

from multicrop import cli
from multicrop.commands import _classifier, _student, finetune, pretrain
from multicrop.commands._finetune_data import FinetuneData, backbone_options
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.machine import AutoSwitch
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.datasets._images import ImageSet
from multicrop.engine import compiled, ranks, watch
from multicrop.weights.pretrained import Pretrained

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
FAMILIES = {
    "vit": test_device.SMALL,
    "cait": {"arch": "cait", **test_device.SMALL},
    "cct": {"arch": "compact:cct_2_3x2"},
    "resnet": {"arch": "resnet8"},
    "manifold": {"arch": "manifold_cvt_2_4_32"},
}
TOLERANCE = 1e-5  # of all numbers after two steps of SGD
SLOW = [name if name == "vit" else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


def plain(graph: nn.Module, _: list):
    return make_boxed_func(graph.forward)


def broken(graph: nn.Module, _: list):
    raise OSError("no C compiler here\nand more about it")


def noting(calls: list):
    """A backend that runs what was traced, and notes each graph."""

    def backend(graph: nn.Module, inputs: list):
        calls.append(graph)
        return aot_autograd(fw_compiler=plain, bw_compiler=plain)(graph, inputs)

    return backend


def without_dropout(module: nn.Module) -> None:
    """Whose draws torch makes in another way where it traces; those of drop path are the same."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        if hasattr(part, "attn_drop_rate"):
            part.attn_drop_rate = 0.0


def stage_one(family: str, compile: AutoSwitch) -> dict:
    """What a checkpoint holds after two steps."""
    flags = {
        **test_device.ONE,
        **FAMILIES[family],
        "accumulate": 1,
        "optimizer": "sgd",
        "compile": compile,
    }
    settings = recipe(Pretraining, **flags)
    _, parts = test_device.stage_one(CPU, settings)
    nets = _student.build(settings, 3, CPU)
    without_dropout(nets.student)
    schedule, rates = nets.objective.schedule(0), pretrain.Rates(0.1, 0.04, 0.9)
    for step in range(2):
        pretrain.update(nets, parts(step), rates, schedule, settings, None, step)
    return nets.state()


def stage_two(family: str, compile: AutoSwitch) -> dict:
    flags = {
        **test_device.SHORT,
        **FAMILIES[family],
        "scratch": True,
        "optimizer": "sgd",
        "compile": compile,
    }
    settings = recipe(Finetuning, **flags)
    _, parts = test_device.stage_two(CPU)
    pixels, labels, rgb = test_device.PIXELS, test_device.LABELS, test_device.RGB
    images = ImageSet(pixels, labels, tuple("abcdefghij"), rgb, rgb)
    options = backbone_options(settings, {}, 32, 3)
    data = FinetuneData(
        "cifar10", "CIFAR10", images, images, labels, labels, options, reported=True
    )
    nets = _classifier.build(settings, Pretrained(), data, CPU)
    without_dropout(nets.model)
    for step in range(2):
        finetune.update(nets, parts(step), settings, 0.1, step, None)
    return nets.state()


STAGES = {"one": stage_one, "two": stage_two}


def near(a, b) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            near(a[key], b[key])
    elif isinstance(a, list):
        for one, other in zip(a, b, strict=True):
            near(one, other)
    elif isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("family", SLOW)
@pytest.mark.parametrize("stage", STAGES)
def test_compiled_steps_are_the_plain_ones(stage, family, monkeypatch, capsys):
    """Random numbers included: the graphs are run as torch traced them, forward and backward."""
    calls: list = []
    monkeypatch.setattr(compiled, "BACKEND", noting(calls))
    results = [STAGES[stage](family, compile) for compile in (False, True)]
    networks = ("student", "teacher", "objective") if stage == "one" else ("model",)
    for name in networks:
        near(results[0][name], results[1][name])
    assert len(calls) == (2 if stage == "one" else 1)  # a graph a network, none twice
    assert "not compiled" not in capsys.readouterr().err


FAULTS = [  # (stage, family, what fails)
    ("one", "resnet", "backward"),
    ("two", "resnet", "backward"),
    *(
        pytest.param(stage, family, part, marks=pytest.mark.slow)
        for stage, family in (("one", "vit"), ("one", "resnet"), ("two", "resnet"))
        for part in ("forward", "whole")
    ),
]


@pytest.mark.parametrize(("stage", "family", "part"), FAULTS)
def test_where_the_compiler_fails_a_line_says_so_and_nothing_is_done_twice(
    stage, family, part, monkeypatch, capsys
):
    """Statistics of batch norms and drop path, too: all is equal to the last bit."""
    backend = {
        "forward": aot_autograd(fw_compiler=broken, bw_compiler=plain),
        "backward": aot_autograd(fw_compiler=plain, bw_compiler=broken),
        "whole": broken,
    }[part]
    expected = STAGES[stage](family, False)
    monkeypatch.setattr(compiled, "BACKEND", backend)
    found = STAGES[stage](family, True)
    if (stage, part) != ("one", "backward"):  # the teacher, which has none, is compiled once there
        same(expected, found)
    near(expected, found)
    said = capsys.readouterr().err
    (line,) = (line for line in said.splitlines() if "not compiled" in line)
    assert line == "the networks are not compiled, which is slower: OSError: no C compiler here"


def test_to_compile_for_minutes_is_no_hang(monkeypatch):
    """A signal meanwhile would end the process after 30 s, as one that another rank does not answer."""
    waits = []

    def backend(graph, inputs):
        waits.append(watch._now)
        return graph.forward

    monkeypatch.setattr(compiled, "BACKEND", backend)
    watch.begin_step(1)
    begun = watch._now.since
    compiled.Compiler(True).function(lambda x: x + 1)(torch.ones(2))
    assert [wait.limited for wait in waits] == [False]
    assert watch._now.what == "step 1" and watch._now.limited and watch._now.since > begun
    watch.end_step()


def test_what_fails_uncompiled_too_is_no_fault_of_the_compiler(monkeypatch, capsys):
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    compiler = compiled.Compiler(True)

    def divide(x):
        raise ZeroDivisionError("ours")

    with pytest.raises(ZeroDivisionError, match="ours"):
        compiler.function(divide)(torch.ones(2))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "norm", [nn.SyncBatchNorm(2), nn.LayerNorm(2)], ids=["synchronised", "own"]
)
def test_a_rank_that_alone_cannot_compile_ends_where_others_would_wait_for_its_statistics(
    norm, monkeypatch, capsys
):
    """The backend fails before the synchronised norms run, which a CPU does not have."""
    monkeypatch.setattr(compiled, "BACKEND", broken)
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    network = nn.Sequential(nn.Linear(2, 2), norm).eval()
    compiled.Compiler(True).module(network)
    if isinstance(norm, nn.SyncBatchNorm):
        with pytest.raises(RuntimeError, match=r"on process 0, .* give --compile false"):
            network(torch.ones(3, 2))
    else:
        assert network(torch.ones(3, 2)).shape == (3, 2)
        assert "are not compiled" in capsys.readouterr().err


def test_auto_compiles_on_cuda_and_not_deterministically(monkeypatch):
    wanted = [compiled.is_wanted("auto", device) for device in (CPU, CUDA, torch.device("mps"))]
    assert wanted == [False, True, False]
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert not compiled.is_wanted("auto", CUDA) and compiled.is_wanted(True, CUDA)
    assert compiled.in_words("auto", CUDA) == "" and "first step" in compiled.in_words(True, CPU)


def test_crops_are_compiled_on_cuda_alone(monkeypatch):
    images = ImageSet(test_device.PIXELS, None, (), test_device.RGB, test_device.RGB)
    made = [
        pretrain.build_crops(recipe(Pretraining, compile=setting), images, device).alter
        for setting, device in (
            ("auto", CUDA),
            (True, CUDA),
            (False, CUDA),
            (True, CPU),
            ("auto", CPU),
        )
    ]
    assert [each is not None for each in made] == [True, True, False, False, False]


@dataclass(frozen=True)
class Recipe:
    compile: AutoSwitch = "auto"
    rate: float = 1.0


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("", "auto"),
        ("--compile", True),
        ("--compile --rate 2", True),
        ("--compile True", True),
        ("--compile=false", False),
        ("--compile auto --rate 2", "auto"),
        ("--compile off", False),
    ],
)
def test_the_flag_takes_auto_and_a_switchs_words(words, value):
    assert cli.parse(Recipe, words.split()).compile is value or value == "auto"
    assert cli.parse(Recipe, words.split()).compile == value


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("auto", "auto")])
def test_a_recipe_file_has_any_of_them(text, value, tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(f"compile: {text}\n")
    assert cli.parse(Pretraining, ["--recipe", str(file)]).run.compile == value


def test_another_word_is_one_line():
    with pytest.raises(cli.UsageError, match="'perhaps' is neither auto, true nor false"):
        cli.parse(Recipe, ["--compile", "perhaps"])
