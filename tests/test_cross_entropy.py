"""The stage-two objective against recorded losses and its definition."""

from pathlib import Path

import numpy as np
import torch

from multicrop.supervised.objectives.cross_entropy import Objective

GOLDEN = np.load(Path(__file__).parent / "golden" / "two_stage_ssl" / "finetune_misc.npz")
LOGITS, OWN, PARTNERS = (torch.from_numpy(GOLDEN[name]) for name in ("logits", "y_a", "y_b"))


def test_smoothed_loss_is_the_recorded_one():
    assert abs(Objective(0.1)(LOGITS, OWN) - float(GOLDEN["label_smoothing_loss"])) < 1e-6


def test_mixed_loss_is_the_recorded_one():
    assert abs(Objective(0.1)(LOGITS, OWN, PARTNERS, 0.3) - float(GOLDEN["mix_loss_lam03"])) < 1e-6


def test_without_smoothing_it_is_the_negative_log_likelihood():
    expected = -LOGITS.log_softmax(1)[torch.arange(len(OWN)), OWN].mean()
    assert torch.isclose(Objective(0.0)(LOGITS, OWN), expected)


def test_half_precision_logits_are_scored_in_full():
    logits = LOGITS.bfloat16().requires_grad_()
    loss = Objective()(logits, OWN)
    loss.backward()
    assert loss.dtype == torch.float32 and torch.isclose(
        loss, Objective()(LOGITS.bfloat16().float(), OWN)
    )
