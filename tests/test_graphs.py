"""engine/graphs.py: what CUDA graphs do to memory is imitated on a CPU, and steps are the same with it as without.

A replay of torch's graphs writes where the one before it wrote. Here what a compiled function returns lies in memory
that the next step overwrites with NaN.
"""

import os
from collections import Counter

import finetuning
import pytest
import test_compiled
import torch
import torch.nn as nn
from conftest import recipe, rows_of, same
from functorch.compile import make_boxed_func
from test_compiled import CPU, CUDA, FAMILIES, STAGES, near
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch._guards import TracingContext

from multicrop.commands import _compiler, finetune, pretrain
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.machine import RunSettings
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.engine import checkpoint, compiled, graphs, ranks

ON = graphs.Choice(True, "as CUDA graphs, ")
QUICK = ("vit", "resnet")  # of the latter batch norms have statistics
WHERE_ALL = pytest.mark.skipif(
    "MULTICROP_FULL_SIZE" not in os.environ, reason="a minute: set MULTICROP_FULL_SIZE=1"
)
TRIED = [
    name if name in QUICK else pytest.param(name, marks=[pytest.mark.slow, WHERE_ALL])
    for name in FAMILIES
]


class GraphMemory:
    """torch.compile's backend, and what begins a step."""

    def __init__(self) -> None:
        self.memory: list[torch.Tensor] = []
        self.calls: Counter[str] = Counter()
        self.copied: list[int] = []  # inputs of each network that are not at one place for ever

    def backend(self, graph: nn.Module, inputs: list, options: dict | None = None):
        if options is None:
            return aot_autograd(fw_compiler=test_compiled.plain, bw_compiler=test_compiled.plain)(
                graph, inputs
            )
        assert options == graphs.OPTIONS
        return aot_autograd(fw_compiler=self.forward, bw_compiler=self.backward)(graph, inputs)

    def forward(self, graph: nn.Module, inputs: list):
        static = TracingContext.get().fw_metadata.static_input_indices
        self.copied.append(len(inputs) - len(static))
        return self.recorded(graph, "forward")

    def backward(self, graph: nn.Module, _: list):
        return self.recorded(graph, "backward")

    def recorded(self, graph: nn.Module, name: str):
        own: dict[int, torch.Tensor] = {}

        def call(*inputs):
            self.calls[name] += 1
            outputs = []
            for number, output in enumerate(graph(*inputs)):
                if isinstance(output, torch.Tensor) and all(output is not each for each in inputs):
                    if number not in own:
                        own[number] = torch.empty_like(output)
                        self.memory.append(own[number])
                    output = kept_in(own[number], output)
                outputs.append(output)
            return outputs

        return make_boxed_func(call)

    def begin_step(self) -> None:
        for memory in self.memory:
            memory.fill_(torch.nan if memory.is_floating_point() else 99)


def kept_in(memory: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """The output, in this memory; a tensor that nobody else holds, as torch's own."""
    memory.copy_(output)
    alone = torch.empty(0, dtype=memory.dtype)
    return alone.set_(
        memory.untyped_storage(), memory.storage_offset(), memory.shape, memory.stride()
    )


@pytest.fixture
def memory(monkeypatch) -> GraphMemory:
    """Networks that are compiled are replayed from here on."""
    memory = GraphMemory()
    monkeypatch.setattr(compiled, "BACKEND", memory.backend)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", memory.begin_step)
    monkeypatch.setattr(graphs, "left_out", [])
    monkeypatch.setattr(graphs, "choose", lambda setting, compiles, *_: ON._replace(on=compiles))
    return memory


def network(*layers: nn.Module) -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 4), *layers)
    compiled.Compiler(True, graphs_of=graphs.Graphs()).module(module, in_graphs=True)
    return module


def test_what_is_returned_stays_when_the_next_call_overwrites_its_memory(memory):
    module = network(nn.Dropout(0.5)).train()
    returned = [module(torch.full((2, 4), float(number))) for number in range(3)]
    assert all(each.isfinite().all() for each in returned)
    assert not torch.equal(returned[0], returned[1])
    with torch.no_grad():
        module(torch.ones(2, 4))
    assert all(each.isfinite().all() for each in returned)
    assert all(held.isnan().all() for held in memory.memory[:1])  # so that it is no other memory


def test_gradients_of_the_parts_of_a_step_add_up(memory):
    module, plain = network(), nn.Sequential(nn.Linear(4, 4))
    plain.load_state_dict(module.state_dict())
    for number in range(3):
        for each in (module, plain):
            each(torch.full((2, 4), float(number))).square().sum().backward()
    assert memory.calls == {"forward": 3 + 3, "backward": 3 + 3}
    near(*([p.grad for p in each.parameters()] for each in (module, plain)))


@pytest.mark.parametrize("family", TRIED)
@pytest.mark.parametrize("stage", STAGES)
def test_replayed_steps_are_the_plain_ones(stage, family, memory, capsys):
    """Two steps, in stage two of two parts each; gradients, statistics and random numbers included.

    All but the images stays in one place for torch, so that replays take parameters and buffers where they are.
    """
    results = [STAGES[stage](family, compile) for compile in (False, True)]
    for name in ("student", "teacher", "objective") if stage == "one" else ("model",):
        near(results[0][name], results[1][name])
    networks, steps = (2, 2) if stage == "one" else (1, 2 * 2)
    assert memory.calls == {"forward": networks * 3 + networks * steps, "backward": 3 + steps}
    assert memory.copied == ([1, 2] if stage == "one" else [1])  # crops of one size and of two
    assert "without" not in capsys.readouterr().err


RUNS = {  # with rows of metrics, steps of two parts, probes and evaluations, prototypes that are held first
    "one": (
        pretrain.run,
        Pretraining,
        {
            "out_dim": 32,
            "local_crops_number": 2,
            "image_size": 16,
            "batch_size_per_gpu": 5,
            "lr": 10.0,
        }
        | {"warmup_epochs": 0, "momentum_teacher": 0.5, "freeze_last_layer": 1, "knn_freq": 1},
    ),
    "two": (
        finetune.run,
        Finetuning,
        {"scratch": True, "ra": 1, "batch_size": 12, "lr": 1.0, "warmup": 0, "ema_decay": 0.9},
    ),
}
MEASURED = ("images_per_second", "data_share", "time", "crc")


@pytest.mark.slow
@pytest.mark.parametrize("stage", RUNS)
def test_a_replayed_run_is_the_plain_one(stage, memory, colours, tmp_path, monkeypatch):
    """Its files: what is kept for a row, a probe or a checkpoint is not overwritten by the steps that follow."""
    monkeypatch.setattr(
        nn.Dropout, "forward", lambda _, x: x
    )  # its draws differ where torch traces
    run, recipe_type, values = RUNS[stage]
    values |= {**finetuning.NETWORK, "datapath": str(colours), "dataset": "image_folder"}
    values |= {"optimizer": "sgd", "device": "cpu", "log_freq": 2, "epochs": 2, "accumulate": 2}
    for name, compile in (("plain", False), ("replayed", True)):
        folder = str(tmp_path / name)
        run(recipe(recipe_type, **values, output_dir=folder, compile=compile))
    plain, replayed = (rows_of(tmp_path / name) for name in ("plain", "replayed"))
    for one, other in zip(plain, replayed, strict=True):
        for name in one.keys() - MEASURED:
            assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-4), name
    near(
        *(
            checkpoint.load(tmp_path / name / "checkpoint.pt").state
            for name in ("plain", "replayed")
        )
    )
    assert memory.calls["backward"] == 3 + 2 * plain[-1]["step"]


FAULTS = [  # (stage, what fails, at which call)
    ("two", "forward", 2),
    ("two", "backward", 2),
    *(
        pytest.param(stage, part, call, marks=pytest.mark.slow)
        for stage, part, call in (
            ("one", "forward", 2),
            ("one", "backward", 1),
            ("two", "backward", 3),
        )
    ),
]


@pytest.mark.parametrize(("stage", "part", "call"), FAULTS)
def test_where_graphs_fail_a_line_says_so_and_the_compiled_networks_go_on(
    stage, part, call, memory, capsys, monkeypatch
):
    """While they are tried out, which leaves no trace: all is equal to the last bit."""
    with monkeypatch.context() as without_graphs:
        without_graphs.setattr(graphs, "choose", lambda *_: graphs.Choice(False, ""))
        expected = STAGES[stage]("resnet", True)
    recorded = memory.recorded

    def broken(graph: nn.Module, name: str):
        run = recorded(graph, name)

        def call_it(inputs):
            if name == part and memory.calls[name] == call - 1:
                memory.calls[name] += 100
                raise RuntimeError("operation not permitted when stream is capturing\nmore")
            return run(inputs)

        call_it._boxed_call = True
        return call_it

    memory.recorded = broken
    same(expected, STAGES[stage]("resnet", True))
    said = capsys.readouterr().err
    (line,) = (line for line in said.splitlines() if "CUDA graphs" in line)
    why = "RuntimeError: operation not permitted when stream is capturing"
    assert line == f"the networks run without CUDA graphs: {why}" and graphs.left_out == [why]


def test_graphs_that_torch_does_not_record_are_said(memory, capsys, monkeypatch):
    monkeypatch.setitem(counters["inductor"], "cudagraph_skips", 0)
    begin_step = memory.begin_step

    def skip() -> None:
        counters["inductor"]["cudagraph_skips"] += 1
        begin_step()

    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", skip)
    assert network()(torch.ones(2, 4)).isfinite().all()
    assert "without CUDA graphs: RuntimeError: torch records none" in capsys.readouterr().err


def test_a_replay_that_does_something_else_is_not_taken(memory, capsys):
    """As one that repeated its random numbers from another place would."""
    recorded = memory.recorded

    def drifting(graph: nn.Module, name: str):
        run = recorded(graph, name)

        def call(inputs):
            outputs = run(inputs)
            if name == "forward" and memory.calls[name] == 3:
                outputs[0] *= 1.05
            return outputs

        call._boxed_call = True
        return call

    memory.recorded = drifting
    module = network()
    plain = nn.Linear(4, 4)
    plain.load_state_dict(module[0].state_dict())
    near(module(torch.ones(2, 4)), plain(torch.ones(2, 4)))
    assert "a replay differs by" in capsys.readouterr().err


def on(setting="auto", compiles=True, device=CUDA, images=64) -> graphs.Choice:
    return graphs.choose(setting, compiles, device, images)


def test_auto_takes_graphs_of_few_images_in_one_process_on_cuda(monkeypatch):
    assert on().on and on(images=128).on and not on(images=129).on and on(True, images=512).on
    assert not on(compiles=False).on and not on(False).on and not on(device=CPU).on
    assert on(device=CPU).words == on(compiles=False).words == on(False).words == ""
    assert "up to 128 images" in on(images=256).words and "--graph false" in on().words
    with monkeypatch.context() as deterministic:
        deterministic.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
        assert "--deterministic" in on().words and not on().on and on(True).on
    monkeypatch.setattr(ranks, "has_group", lambda: True)
    assert "one process" in on().words and not on().on


def test_what_cannot_be_replayed_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="--graph true is for CUDA, not cpu"):
        on(True, device=CPU)
    with pytest.raises(ValueError, match="networks that are compiled: add --compile true"):
        on(True, compiles=False)
    monkeypatch.setattr(ranks, "has_group", lambda: True)
    with pytest.raises(ValueError, match="one process without torchrun"):
        on(True)
    for flag in ("compile", "checkpoint_activations"):
        with pytest.raises(ValueError, match="--graph True: is for networks that are compiled"):
            RunSettings(graph=True, **{flag: flag != "compile"})


def test_the_summary_says_of_both(monkeypatch):
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: False)
    said = _compiler.in_words(RunSettings(), CUDA, 64)
    assert said.startswith("compiled (") and said.endswith(
        "as CUDA graphs (--graph false leaves them out), "
    )
    assert _compiler.in_words(RunSettings(), CPU, 64) == ""
