"""Calibration: the published definitions place by place, and scikit-learn."""

import pytest
import torch

from multicrop.probes.calibration import calibration, expected_calibration_error


def example(images: int = 500, classes: int = 7, scale: float = 3):
    random = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(images, classes, generator=random)
    return logits, torch.randint(classes, (images,), generator=random)


def test_ece_is_the_mean_gap_of_the_bins():
    logits, labels = example()
    confidence, predicted = logits.double().softmax(1).max(1)
    total = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            accuracy = (predicted == labels)[inside].double().mean()
            total += inside.sum() / 500 * abs(accuracy - confidence[inside].mean())
    assert calibration(logits, labels).ece == pytest.approx(100 * float(total), abs=1e-4)


def test_ece_by_hand():
    """Two images at 0.8, one of them right; two at 0.6, both right: (2 * 0.3 + 2 * 0.4) / 4."""
    probabilities = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.6, 0.4], [0.4, 0.6]])
    labels = torch.tensor([0, 1, 0, 1])
    assert expected_calibration_error(probabilities, labels) == pytest.approx(35, abs=1e-4)


def test_nll_and_brier_are_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    logits, labels = example()
    probabilities = logits.double().softmax(1).numpy()
    found = calibration(logits, labels)
    assert found.nll == pytest.approx(metrics.log_loss(labels, probabilities), abs=1e-4)
    expected = metrics.brier_score_loss(labels, probabilities, labels=[*range(7)])
    assert found.brier == pytest.approx(expected, abs=1e-4)


def test_a_sure_classifier():
    labels = torch.arange(4)
    right = calibration(1000 * torch.eye(4), labels).to_dict()
    assert right == {"ece": 0.0, "nll": 0.0, "brier": 0.0}
    wrong = calibration(1000 * torch.eye(4), labels.roll(1))
    assert (wrong.ece, wrong.brier) == (100.0, 2.0) and wrong.nll == pytest.approx(1000)
