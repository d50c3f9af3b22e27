"""probes/temperature.py, and the calibration that runs of stage two leave in their checkpoints."""

import pytest
import torch
import torch.nn.functional as F
from finetuning import PLAIN, run

from multicrop.commands import _evaluation
from multicrop.engine import checkpoint
from multicrop.engine.run import Run
from multicrop.probes.temperature import LEAST_IMAGES, Temperature, fit_temperature


def sample(sharpness: float, images: int = 4000, classes: int = 5):
    """Logits that are `sharpness` times those by which the labels were drawn."""
    generator = torch.Generator().manual_seed(0)
    true = 2 * torch.randn(images, classes, generator=generator)
    labels = torch.multinomial(true.softmax(1), 1, generator=generator)[:, 0]
    return sharpness * true, labels


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_it_is_found_by_which_labels_were_drawn(sharpness):
    found = fit_temperature(*sample(sharpness))
    assert found.temperature == pytest.approx(sharpness, rel=0.05)


def test_nothing_near_fits_better_and_predictions_stay():
    logits, labels = sample(3.0, 500)
    found = fit_temperature(logits, labels)

    def nll(temperature: float) -> float:
        return F.cross_entropy(logits.double() / temperature, labels).item()

    assert found.images == 500
    assert found.nll == pytest.approx(nll(found.temperature), abs=1e-12)
    assert found.nll_before == pytest.approx(nll(1.0), abs=1e-12)
    for factor in (0.999, 1.001):
        assert found.nll < nll(found.temperature * factor)


def test_no_temperature_of_too_few_images_or_where_all_are_told_right_or_none():
    logits, labels = sample(1.0)
    few = LEAST_IMAGES - 1
    assert fit_temperature(logits[:few], labels[:few]) is None
    right = F.one_hot(labels, 5).float()
    assert fit_temperature(right, labels) is None  # the colder, the better
    assert fit_temperature(-right, labels) is None  # the hotter, the better
    assert fit_temperature(torch.zeros(100, 5), labels[:100]) is None


@pytest.fixture
def fits(monkeypatch):
    """Every fit that a run makes: a number of its own each, in place of the temperature."""
    made = []

    def fit(logits, labels):
        made.append((logits.detach().clone(), labels.clone()))
        return Temperature(float(len(made)), len(labels), 0.0, 0.0)

    monkeypatch.setattr(_evaluation, "fit_temperature", fit)
    return made


def calibration(path):
    return {
        network: fit["temperature"]
        for network, fit in checkpoint.load(path).metadata.calibration.items()
    }


def test_checkpoints_say_the_temperature_of_their_own_weights(colours, tmp_path, fits):
    folder = tmp_path / "run"
    result = run(colours, folder, **PLAIN, epochs=3, ema_decay=0.9)
    assert len(fits) == 6  # of the model and of its average, after each epoch, and of no test image
    assert {len(labels) for _, labels in fits} == {6}
    selected = 2 * result["selected_epoch"]
    assert calibration(folder / "checkpoint.pt") == {"model": 5, "average": 6}
    assert calibration(folder / "best.pt") == {"model": selected, "average": selected}
    assert calibration(folder / "averaged.pt") == {"model": 6, "average": 6}
    run(colours, folder, **PLAIN, epochs=3, ema_decay=0.9)  # a finished run keeps them
    assert len(fits) == 6
    assert calibration(folder / "averaged.pt") == {"model": 6, "average": 6}


def test_a_checkpoint_between_two_measurements_says_none(colours, tmp_path, fits, monkeypatch):
    said, save = [], Run.save

    def noted(self, metadata, state):
        said.append([fit["temperature"] for fit in metadata.calibration.values()])
        save(self, metadata, state)

    monkeypatch.setattr(Run, "save", noted)
    run(colours, tmp_path / "run", **PLAIN, epochs=3, eval_freq=2)
    assert said == [[], [1.0], [2.0]]


def test_test_images_are_never_fitted(colours, tmp_path, fits):
    run(colours, tmp_path / "run", **PLAIN, epochs=1, val_fraction=0.0)
    assert fits == [] and calibration(tmp_path / "run" / "checkpoint.pt") == {}
