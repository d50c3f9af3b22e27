"""engine/ranks.py on one process."""

from copy import deepcopy
from functools import partial
from unittest.mock import create_autospec

import pytest
import timm
import torch
import torch.distributed as dist
from conftest import ROOT, launch
from timm.layers import BatchNormAct2d
from torch import nn

from multicrop.engine import norms, ranks, watch


def test_alone_every_call_is_the_identity():
    value = torch.tensor([1.0, 2.0])
    assert (
        ranks.world_size() == 1
        and ranks.all_reduce_mean(value) is value
        and ranks.all_reduce_max(value) is value
    )
    assert ranks.gather(value) is value and ranks.broadcast_object(lambda: 3) == 3
    assert ranks.all_true(True) and not ranks.all_true(False)
    assert ranks.wrap(nn.Linear(1, 1), torch.device("cpu")).weight.shape == (1, 1)


@pytest.mark.parametrize("name", ["regnetx_002", "efficientnet_b0"])
def test_synchronised_norms_keep_the_activations(name, monkeypatch):
    """timm's BatchNormAct2d is a batch norm with an activation inside."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    model = timm.create_model(name, num_classes=0)
    before = kinds(model)
    norms.synchronise(model, torch.device("cpu"))
    assert kinds(model) == before
    after = kinds(norms.synchronise(model, torch.device("cuda")))
    assert after["activation"] == before["activation"] > 10
    assert (after["synchronised"], after["plain"]) == (before["plain"], 0)


def kinds(model: nn.Module) -> dict[str, int]:
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    synchronised = sum(isinstance(m, nn.SyncBatchNorm) for m in norms)
    activations = sum(isinstance(m, (nn.ReLU, nn.SiLU)) for m in model.modules())
    return {
        "activation": activations,
        "synchronised": synchronised,
        "plain": len(norms) - synchronised,
    }


def test_a_process_that_torchrun_starts_alone_has_a_group_only_where_one_is_asked_for(monkeypatch):
    """By which NCCL can be tried on one card (benchmarks/_gpu_nccl.py)."""
    begun = []
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **_: begun.append(backend))
    monkeypatch.setattr(dist, "new_group", lambda **_: None)
    monkeypatch.setattr(ranks, "_host", None)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks.start("cpu", group_of_one=True)  # not under torchrun
    monkeypatch.setenv("WORLD_SIZE", "1")
    ranks.start("cpu")
    assert begun == []
    ranks.start("cpu", group_of_one=True)
    assert begun == ["gloo"]


def test_an_unknown_device_is_one_line():
    with pytest.raises(ValueError, match="'gpu' is not a device; try auto"):
        ranks.start("gpu")


@pytest.mark.parametrize(("gpus", "local_rank", "expected"), [(4, 3, 3), (1, 3, 0), (2, 1, 1)])
def test_a_rank_takes_its_own_gpu_or_the_only_one_that_it_sees(
    gpus, local_rank, expected, monkeypatch
):
    """As under srun --gpus-per-task=1, where every task has number 0."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    assert ranks.start("cuda") == torch.device("cuda", expected)


@pytest.mark.parametrize(
    ("backend", "failed", "left"), [("nccl", True, 0), ("nccl", False, 1), ("gloo", True, 1)]
)
def test_a_rank_that_failed_does_not_wait_for_the_others(backend, failed, left, monkeypatch):
    """Leaving NCCL in good order is something that all ranks do together."""
    calls = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_backend", lambda: backend)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append(1))
    ranks.stop(failed)
    assert len(calls) == left


@pytest.mark.parametrize(
    ("norm", "sent"), [(nn.LayerNorm, False), (nn.SyncBatchNorm, False), (nn.BatchNorm1d, True)]
)
def test_buffers_are_sent_only_where_they_differ(norm, sent, monkeypatch):
    given = {}
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    parallel = nn.parallel.DistributedDataParallel
    recorder = create_autospec(
        parallel, side_effect=lambda module, **options: given.update(options)
    )
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", recorder)
    ranks.wrap(nn.Sequential(nn.Linear(2, 3), norm(3)), torch.device("cpu"))
    assert given["gradient_as_bucket_view"]
    flags = [given[name] for name in given if name.endswith("buffers")]
    assert flags == ([] if sent else [False])


@pytest.mark.parametrize(("device", "stated"), [("cuda", True), ("cpu", False)])
def test_gpus_send_up_to_25_mb_of_gradients_at_once(device, stated, monkeypatch):
    """The first bucket too; on a CPU the order of sums stays what it was."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    given = {}
    recorder = create_autospec(
        nn.parallel.DistributedDataParallel, side_effect=lambda module, **k: given.update(k)
    )
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", recorder)
    ranks.wrap(nn.Linear(2, 3), torch.device(device, 0))
    assert given.get("bucket_cap_mb") == (25 if stated else None)


@pytest.mark.parametrize("activation", [False, True])
def test_a_synchronised_norm_is_the_norm_of_all_images(activation, monkeypatch):
    """By torch's operations for GPUs as they are defined, since a CPU has none, and two ranks' statistics."""
    whole = 3 * torch.randn(8, 5, 4, 4) + 1
    own, other = whole[:4], whole[4:]
    plain = BatchNormAct2d(5) if activation else nn.BatchNorm2d(5)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    monkeypatch.setattr(ranks, "everyone", lambda: None)
    norm = norms.synchronise(nn.Sequential(deepcopy(plain)), torch.device("cuda"))
    count = torch.tensor([64.0])

    def stats(x, eps=norm[0].eps):
        return x.mean((0, 2, 3)), (x.var((0, 2, 3), unbiased=False) + eps).rsqrt()

    def gathered(x, means, inverse_stds, mean, variance, momentum, eps, counts):
        assert counts.tolist() == [64, 64]
        variances = inverse_stds.pow(-2) - eps
        average = means.mean(0)
        spread = (variances + means.square()).mean(0) - average.square()
        mean.lerp_(average, momentum)
        variance.lerp_(spread * 128 / 127, momentum)
        return average, (spread + eps).rsqrt()

    def normalised(x, weight, bias, mean, inverse_std, eps):
        shaped = [each.view(-1, 1, 1) for each in (mean, inverse_std, weight, bias)]
        return (x - shaped[0]) * shaped[1] * shaped[2] + shaped[3]

    for name, stands_in in {
        "batch_norm_stats": stats,
        "batch_norm_gather_stats_with_counts": gathered,
        "batch_norm_elemt": normalised,
    }.items():
        monkeypatch.setattr(torch, name, stands_in)
    monkeypatch.setattr(
        ranks, "gather_equal", lambda mine: torch.stack([mine, torch.cat([*stats(other), count])])
    )
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
    close(norm(own), plain(whole)[:4])
    for name, buffer in plain.named_buffers():
        close(norm[0].get_buffer(name), buffer)
    close(norm.eval()(own), plain.eval()(own))


@pytest.mark.parametrize("reduce", [ranks.all_reduce_mean, ranks.all_reduce_max])
def test_signals_are_heard_where_ranks_add_up_beside_steps(reduce, monkeypatch):
    """Accuracies and the numbers of a row; inside a step it is the step that is said."""
    waits = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda *_, **__: waits.append(watch._now))
    reduce(torch.ones(2))
    assert watch._now is None
    watch.begin_step(7)
    reduce(torch.ones(2))
    watch.end_step()
    assert [(wait.what, wait.limited) for wait in waits] == [
        ("what they add up", True),
        ("step 7", True),
    ]


WAITING = """
import signal, sys, time
sys.path.insert(0, {root!r})
from multicrop.engine import norms, ranks
heard = []
signal.signal(signal.SIGALRM, lambda *_: heard.append(time.monotonic()))
ranks.start("cpu")
began = time.monotonic()
signal.setitimer(signal.ITIMER_REAL, 0.2)
for wait in (ranks.first_on_node(), None):
    if wait is None:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        began = time.monotonic()
        answer = ranks.broadcast_object(lambda: time.sleep(2) or "slow")
    else:
        with wait:
            time.sleep(2 if ranks.rank() == 0 else 0)
    assert heard.pop() - began < 1, "a signal waited for the other rank"
assert answer == "slow" and ranks.all_true(True)
ranks.stop()
"""


@pytest.mark.slow
def test_ranks_that_wait_hear_signals(tmp_path):
    script = tmp_path / "waiting.py"
    script.write_text(WAITING.format(root=str(ROOT)))
    done = launch(str(script), ranks=2)
    assert done.returncode == 0, done.stderr


NODES = """
import os, sys
sys.path.insert(0, {root!r})
os.environ["GROUP_RANK"], os.environ["LOCAL_RANK"] = (
    str(int(os.environ["RANK"]) // 2), str(int(os.environ["RANK"]) % 2)
)
from multicrop.engine import ranks
ranks.start("cpu")
made = ranks.make_on_node(lambda: ranks.rank(), lambda rank: True)
makers = ranks.gather_objects(made)
assert makers == [0, 0, 2, 2], makers
ranks.stop()
"""


@pytest.mark.slow
def test_nodes_of_one_name_are_two(tmp_path):
    """As containers may be: what the first process of another node has made lies on another disk."""
    script = tmp_path / "nodes.py"
    script.write_text(NODES.format(root=str(ROOT)))
    done = launch(str(script), ranks=4)
    assert done.returncode == 0, done.stderr
