"""commands/_attention.py: what computes attention is measured once, said, kept with the run, and what then computes it.

Times are pretended where the choice depends on them, and a CPU stands for the device that is measured.
"""

from collections import Counter

import finetuning
import pytest
import test_train_ssl
import torch
import torch.nn as nn
from conftest import recipe, same
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

from multicrop.commands import _attention as choice
from multicrop.commands import pretrain
from multicrop.config.machine import RunSettings
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.engine import ranks, rows, stopwatch
from multicrop.engine.run import ATTENTION, Run
from multicrop.models import _attention
from multicrop.models._attention import Shape
from multicrop.models.vit import build

photos = test_train_ssl.photos
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
FLASH = "_scaled_dot_product_flash_attention_for_cpu"


@pytest.fixture(autouse=True)
def own():
    with choice.own_choices():
        yield


@pytest.fixture
def calls(monkeypatch) -> Counter:
    """How often `attend` has gone by a choice, by backend and tokens."""
    counter: Counter = Counter()
    attend_by = _attention.attend_by

    def counted(backend, q, k, v, alone=False):
        if not alone:
            counter[backend, k.shape[2]] += 1
        return attend_by(backend, q, k, v, alone)

    monkeypatch.setattr(_attention, "attend_by", counted)
    return counter


@pytest.fixture
def measured(monkeypatch) -> list:
    """The shapes that are timed, as on a GPU: there flash is the fastest, at 17 tokens hardly."""
    timed: list = []

    def milliseconds(function, inputs, times=10, repeats=5):
        name = "plain" if not hasattr(function, "args") else function.args[0]
        if name == "cudnn":
            raise RuntimeError("No available kernel. Aborting execution.")
        function(*inputs)
        tokens = inputs[1].shape[2]
        timed.append((name, *inputs[0].shape, inputs[0].requires_grad))
        return {"torch": 1.0, "flash": 0.96 if tokens == 17 else 0.5}.get(name, 2.0)

    monkeypatch.setattr(choice, "measures", lambda device: True)
    monkeypatch.setattr(stopwatch, "milliseconds", milliseconds)
    # A CPU has no efficient attention, and would say so
    monkeypatch.setattr(
        _attention, "FUSED", {name: _attention.FUSED[name] for name in ("flash", "cudnn")}
    )
    return timed


def shapes(backend: str, heads: int = 2, width: int = 8) -> dict[Shape, str]:
    return {
        Shape(heads, queries, 17, width, learns): backend
        for queries in (1, 17)
        for learns in (True, False)
    }


def network() -> nn.Module:
    torch.manual_seed(0)
    return build(16, patch_size=4, embed_dim=16, num_layers=2, num_heads=2).eval()


def traced(module: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, list, Counter]:
    """Outputs and gradients of the network as one graph, and the operations of its forward pass."""
    operations: Counter = Counter()

    def forward(graph, _):
        operations.update(str(node.target).split(".")[1] for node in graph.graph.nodes
                          if str(node.target).startswith("aten."))  # fmt: skip
        return make_boxed_func(graph.forward)

    def backward(graph, _):
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=forward, bw_compiler=backward)
    output = torch.compile(module, backend=backend, fullgraph=True, dynamic=False)(images)
    return output, list(torch.autograd.grad(output.sum(), list(module.parameters()))), operations


def test_a_graph_holds_the_choice_and_computes_the_same():
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    module = network()
    before = torch.nn.attention._cur_sdpa_kernel_backends(with_priority=True)
    plain = traced(module, images)
    assert FLASH not in plain[2]
    _attention.choices.update(shapes("flash"))
    flash = traced(module, images)
    assert flash[2][FLASH] == 2
    torch.testing.assert_close(flash[0], plain[0], rtol=1e-6, atol=1e-6)
    for one, other in zip(flash[1], plain[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert torch.nn.attention._cur_sdpa_kernel_backends(with_priority=True) == before


@pytest.mark.parametrize("backend", ["plain", "flash", "efficient", "cudnn", "torch"])
def test_each_backend_or_what_stands_in_for_it_agrees(backend):
    q, k, v = torch.randn(3, 2, 2, 9, 8).unbind()
    expected = (q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1) @ v
    found = _attention.attend_by(backend, q, k, v)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    if backend in ("efficient", "cudnn"):  # which a CPU does not have
        with pytest.raises(RuntimeError):
            _attention.attend_by(backend, q, k, v, alone=True)


def test_on_a_cpu_nothing_is_asked_measured_or_written(photos, tmp_path, monkeypatch, calls):
    monkeypatch.setattr(choice, "_asked", None)
    test_train_ssl.run(photos, tmp_path, max_steps=1)
    assert not calls and not (tmp_path / ATTENTION).exists()


def test_auto_is_for_cuda_without_deterministic(monkeypatch):
    assert choice.measures(CUDA) and not choice.measures(CPU)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert not choice.measures(CUDA)


def test_a_run_takes_the_fastest_and_a_resumed_one_takes_the_same(
    photos,
    tmp_path,
    measured,
    calls,
    capsys,
    monkeypatch,
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    test_train_ssl.run(photos, whole, max_steps=4)
    said = capsys.readouterr().err
    assert "65 x 65 tokens, 2 heads of 12, forward and backward: flash (torch 1 ms, " in said
    assert "17 x 17 tokens, 2 heads of 12, forward and backward: torch's own choice (" in said
    assert "cudnn left out" in said
    assert (
        {name for name, _ in calls} == {"flash"} and calls["flash", 65] and not calls["flash", 17]
    )
    # The teacher, and the student's global and local crops, of a batch of 4
    student = {each[1:] for each in measured if each[-1]}
    assert {(8, 2, 65, 12, True), (8, 2, 17, 12, True)} <= student
    assert {each[1] for each in measured if not each[-1]} == {8}

    test_train_ssl.run(photos, parts, max_steps=2)
    calls.clear()
    monkeypatch.setattr(stopwatch, "milliseconds", None)  # what is kept is not measured again
    test_train_ssl.run(photos, parts, max_steps=4)
    assert calls["flash", 65] and "as before" in capsys.readouterr().err
    same(test_train_ssl.networks(whole), test_train_ssl.networks(parts))
    assert not _attention.choices


def test_another_choice_may_be_stated_when_a_run_goes_on(photos, tmp_path, calls, capsys):
    test_train_ssl.run(photos, tmp_path, max_steps=1, attention="flash")
    assert calls["flash", 65] and calls["flash", 17]
    calls.clear()
    test_train_ssl.run(photos, tmp_path, max_steps=2, attention="plain")
    assert calls["plain", 65] and not calls["flash", 65]
    assert "plain (plain " in capsys.readouterr().err
    calls.clear()
    test_train_ssl.run(photos, tmp_path, max_steps=3, attention="torch")
    assert not calls


def test_a_run_that_began_without_a_choice_goes_on_without(
    photos, tmp_path, measured, calls, capsys
):
    """It was another version's, say, or deterministic at first."""
    test_train_ssl.run(photos, tmp_path, max_steps=1, attention="torch")
    test_train_ssl.run(photos, tmp_path, max_steps=2)
    assert not measured and not calls and not (tmp_path / ATTENTION).exists()
    assert "torch's own choice, as before" in capsys.readouterr().err


def test_a_damaged_record_is_measured_again(photos, tmp_path, measured, capsys):
    test_train_ssl.run(photos, tmp_path, max_steps=1)
    file = tmp_path / ATTENTION
    file.write_text(file.read_text().replace("flash", "flush"))
    measured.clear()
    test_train_ssl.run(photos, tmp_path, max_steps=2)
    assert measured and "attention.jsonl is damaged" in capsys.readouterr().err
    assert rows.parse(file)[1] == {}


def test_on_another_card_a_run_measures_again(photos, tmp_path, measured, monkeypatch):
    test_train_ssl.run(photos, tmp_path, max_steps=1)
    measured.clear()
    monkeypatch.setattr(choice, "_machine", lambda: {"device": "another card", "torch": "2.14"})
    test_train_ssl.run(photos, tmp_path, max_steps=2)
    table, _ = rows.parse(tmp_path / ATTENTION)
    assert measured and {row["device"] for row in table} == {"another card"}


def test_a_backend_that_takes_nothing_is_one_line(photos, tmp_path):
    with pytest.raises(ValueError, match=r"--attention cudnn: on this cpu device .* leave it out"):
        test_train_ssl.run(photos, tmp_path, max_steps=1, attention="cudnn")


def test_what_computes_something_else_is_left_out(photos, tmp_path, measured, monkeypatch, capsys):
    attend_by = _attention.attend_by

    def wrong(backend, q, k, v, alone=False):
        return attend_by(backend, q, k, v, alone) * (1.1 if backend == "flash" else 1.0)

    monkeypatch.setattr(_attention, "attend_by", wrong)
    test_train_ssl.run(photos, tmp_path, max_steps=1)
    table, _ = rows.parse(tmp_path / ATTENTION)
    assert {row["choice"] for row in table} == {"torch"}
    assert "attention by flash differs by " in capsys.readouterr().err


def test_stage_two_measures_its_evaluations_too(colours, tmp_path, measured, calls):
    finetuning.run(colours, tmp_path, max_steps=4, image_size=16, patch_size=2)
    table, _ = rows.parse(tmp_path / ATTENTION)
    learns = {row["shape"]["learns"] for row in table if row["shape"]["queries"] == 65}
    assert learns == {True, False} and {row["images"] for row in table} == {12}
    assert calls["flash", 65]


def test_an_attention_of_evaluations_alone_is_chosen(colours, tmp_path, calls):
    """In training a compact transformer drops attention weights, and asks for none."""
    words = {"arch": "cct_2_3x2_32", "attention": "plain", "image_size": 32}
    finetuning.run(
        colours, tmp_path, max_steps=2, embed_dim=None, num_layers=None, num_heads=None, **words
    )
    table, _ = rows.parse(tmp_path / ATTENTION)
    assert [row["shape"]["learns"] for row in table] == [False] and calls["plain", 64]


@pytest.mark.parametrize("backend", _attention.FUSED)
def test_on_mps_a_backend_cannot_be_stated(backend, tmp_path):
    with pytest.raises(ValueError, match=f"--attention {backend} is for CUDA and CPUs, not mps"):
        run = Run(tmp_path, {})
        choice.choose(RunSettings(attention=backend), list, run, 0, torch.device("mps"), None)


def test_to_ask_the_networks_leaves_no_trace():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    images = torch.randn(2, 3, 4, 4)
    assert choice._asked([choice.Pass(module, (images,), learns=True)], CPU, None) == {}
    same(before, dict(module.state_dict()))


def test_every_rank_takes_the_firsts_choice(tmp_path, monkeypatch):
    shape = Shape(2, 17, 17, 8, True)
    row = {"shape": shape._asdict(), "ms": {"torch": 2.0, "plain": 1.0}, "choice": "plain"}
    monkeypatch.setattr(choice, "measures", lambda device: True)
    monkeypatch.setattr(ranks, "broadcast_object", lambda make: [row])
    monkeypatch.setattr(ranks, "rank", lambda: 1)
    run = Run(tmp_path / "run", {})
    choice.choose(RunSettings(), list, run, 0, CPU, None)
    assert _attention.choices == {shape: "plain"} and not (tmp_path / "run" / ATTENTION).exists()


def test_torchs_choice_is_kept_unless_it_is_slower_by_more_than_noise():
    assert choice.fastest({"torch": 1.0, "flash": 0.96, "plain": 3.0, "cudnn": None}) == "torch"
    assert choice.fastest({"torch": 1.0, "flash": 0.94, "plain": 0.9, "cudnn": None}) == "plain"
    assert choice.fastest({"torch": None, "flash": 2.0}) == "flash"
    assert choice.fastest({"cudnn": None}) == "torch"


@pytest.mark.parametrize("learns", [True, False])
def test_the_stopwatch_times_what_is_needed(learns):
    enabled, backward = [], []
    weight = torch.ones(3, requires_grad=learns)

    def function(x):
        enabled.append(torch.is_grad_enabled())
        result = x * 2
        if learns:
            result.register_hook(backward.append)
        return result

    assert stopwatch.milliseconds(function, [weight], times=2, repeats=2) > 0
    assert enabled == [learns] * 7 and len(backward) == (7 if learns else 0)


def test_the_crops_of_stage_one_are_asked_for(monkeypatch):
    """Also without local crops, whose batch is empty."""
    settings = recipe(
        Pretraining, **{**test_train_ssl.SMALL, "local_crops_number": 0}, batch_size_per_gpu=4
    )
    state = pretrain.build(settings, 3, CPU)
    monkeypatch.setattr(choice, "choose", lambda run, passes, *_: asked.update(
        choice._asked(passes(), CPU, torch.bfloat16)))  # fmt: skip
    asked: dict = {}
    choice.choose_for_pretraining(settings, state, 3, None, 0, None)
    assert {shape.keys for shape in asked} == {65}
    assert {each.dtype for inputs in asked.values() for each in inputs} == {torch.bfloat16}


@pytest.mark.cuda
def test_a_gpu_times_its_backends_and_they_agree(photos, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    test_train_ssl.run(photos, tmp_path, max_steps=1, device="cuda", embed_dim=32)
    table, _ = rows.parse(tmp_path / ATTENTION)
    assert len(table) == 6 and all(row["ms"]["torch"] > 0 < row["ms"]["plain"] for row in table)
    q, k, v = torch.randn(3, 8, 12, 65, 16, device=CUDA, dtype=torch.bfloat16).unbind()
    expected = _attention.attend_by("plain", q.double(), k.double(), v.double()).float()
    for backend in ("plain", "torch", *_attention.FUSED):
        found = _attention.attend_by(backend, q, k, v).float()
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
