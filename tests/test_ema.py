"""The moving average of weights: decays, buffers, resuming."""

import copy
import io

import pytest
import torch
import torch.nn as nn
from locality_guidance import training_pieces

from multicrop.supervised.ema import Ema


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def train(model: nn.Module, ema: Ema, steps: range) -> None:
    """Steps that move weights and batch statistics, each a function of its number."""
    for step in steps:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        model.train()(x)
        with torch.no_grad():
            model[0].weight.add_(x[:4] / 10)
        ema.update(model, step + 1)


def test_weights_and_statistics_follow_and_counters_are_copied():
    model = network()
    ema, before = Ema(model, 0.9), copy.deepcopy(model.state_dict())
    train(model, ema, range(1))
    now, averaged = model.state_dict(), ema.state_dict()
    assert averaged.keys() == now.keys()
    for name in ("0.weight", "1.running_mean", "1.running_var"):
        assert not torch.equal(now[name], before[name])
        torch.testing.assert_close(averaged[name], 0.9 * before[name] + 0.1 * now[name])
    assert averaged["1.num_batches_tracked"] == now["1.num_batches_tracked"] == 1


def test_the_published_update_of_locality_guidance(recordings):
    recorded = training_pieces(recordings)
    model = nn.Linear(3, 2, bias=False)
    model.weight.data = recorded["ema/ema_weight_before"]
    ema = Ema(model, 1 - float(recorded["ema/alpha"]), every=4)
    model.weight.data = recorded["ema/model_weight"]
    for done in (5, 6, 7, 8):
        ema.update(model, done)
    torch.testing.assert_close(
        ema.model.weight.data, recorded["ema/ema_weight_after"], rtol=0, atol=1e-6
    )


def test_decays():
    plain, late = Ema(network(), 0.99996), Ema(network(), 0.99996, start=2)
    assert [plain.decay(done) for done in (1, 2, 29_100)] == [0.99996] * 3
    assert [late.decay(done) for done in (1, 2, 3)] == [0, 0, 0.99996]
    warm = Ema(network(), 0.99, warmup=True)
    assert warm.decay(1) == 0
    assert [warm.decay(done) for done in (2, 9, 28)] == pytest.approx(
        [1 - n ** (-2 / 3) for n in (2, 9, 28)]
    )
    assert warm.decay(10_000) == 0.99


@pytest.mark.parametrize("options", [{}, {"warmup": True}, {"start": 4, "every": 2}])
def test_a_resumed_average_is_the_uninterrupted_one(options):
    model = network()
    ema = Ema(model, 0.9, **options)
    train(model, ema, range(5))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "ema": ema.state_dict()}, file)
    train(model, ema, range(5, 9))

    file.seek(0)
    saved, again = torch.load(file, weights_only=True), network()
    resumed = Ema(again, 0.9, **options)
    again.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["ema"])
    train(again, resumed, range(5, 9))
    for name, value in ema.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value)


def test_the_average_is_evaluated_and_never_trained():
    ema = Ema(network().train(), 0.9)
    assert not ema.model.training and not any(p.requires_grad for p in ema.model.parameters())


@pytest.mark.parametrize(
    ("decay", "every", "message"),
    [(1.5, 1, "decay of the averaged weights is 1.5"), (0.9, 0, "every 0 steps")],
)
def test_impossible_numbers_are_one_line(decay, every, message):
    with pytest.raises(ValueError, match=message):
        Ema(network(), decay, every=every)
