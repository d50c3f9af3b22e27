"""The accuracy of a classifier: finetune measures it at epochs' ends, and --eval that of a file alone."""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from multicrop import registry
from multicrop.augment.evaluation import EvalTransform
from multicrop.commands._classifier import TrainState, build_objective
from multicrop.commands._data import eval_transform
from multicrop.commands._features import shared_features
from multicrop.commands._finetune_data import backbone_options, size_of
from multicrop.commands._kept import BEST, say_which
from multicrop.commands._networks import check_channels, fill_backbone
from multicrop.commands._scored import load_scored, make_folder, results_folder, states_output
from multicrop.config.finetune import Recipe
from multicrop.datasets._images import ImageSet
from multicrop.engine import checkpoint, ranks
from multicrop.engine.loop import Loop
from multicrop.engine.optional import optional
from multicrop.engine.progress import Progress
from multicrop.engine.run import Run
from multicrop.pictures.confusion import draw_confusion
from multicrop.probes.accuracy import accuracies, balanced_accuracy, macro_f1
from multicrop.probes.confusion import Confusion
from multicrop.probes.temperature import Temperature, fit_temperature
from multicrop.supervised.classifier import Classifier
from multicrop.supervised.selection import BestEpoch
from multicrop.weights.pretrained import Pretrained

# The network of a checkpoint whose validation accuracies have this name
VALIDATION = {"val": "model", "ema_val": "average"}
METRICS_IN_WORDS = {"val_top1": "top-1", "val_balanced_accuracy": "balanced accuracy"}


class Evaluation:
    """Measures models on images as the transform shows them."""

    def __init__(
        self,
        objective: nn.Module,
        transform: EvalTransform,
        device: torch.device,
        dtype: torch.dtype | None,
    ):
        self.objective, self.transform, self.device, self.dtype = (
            objective,
            transform,
            device,
            dtype,
        )
        self.measured = 0
        """Images of the latest accuracy: those that could be read."""
        self._temperatures: dict[str, Temperature | None] = {}

    @torch.no_grad()
    def accuracy(
        self,
        model: nn.Module,
        name: str,
        images: ImageSet,
        indices: Tensor | None = None,
        folder: Path | None = None,
    ) -> dict[str, float]:
        """Loss in nats; in percent top-1 and top-5 accuracy, balanced accuracy and macro F1 of a split or some images.

        name: what the numbers' names begin with. folder: where to write which classes are confused.
        """
        assert images.labels is not None
        if indices is None:
            indices = torch.arange(len(images))
        settings = self.transform, self.device, self.dtype
        logits, kept = shared_features(model, images, indices, *settings)
        self.measured = len(kept)
        labels = images.labels[kept].to(logits.device)
        if name in VALIDATION:
            self._temperatures[VALIDATION[name]] = fit_temperature(logits, labels)
        top1, top5 = accuracies(logits, labels)
        predictions = logits.argmax(1)
        if folder and ranks.rank() == 0:
            write_confusion(Confusion(logits, labels, images.classes), folder)
        loss = self.objective(logits, labels).item()
        return {
            f"{name}_loss": loss,
            f"{name}_top1": top1,
            f"{name}_top5": top5,
            f"{name}_balanced_accuracy": balanced_accuracy(predictions == labels, labels),
            f"{name}_macro_f1": macro_f1(predictions, labels),
        }

    def evaluate_with_ema(
        self,
        train_state: TrainState,
        name: str,
        images: ImageSet,
        indices: Tensor | None = None,
        folder: Path | None = None,
    ) -> dict[str, float]:
        """Accuracies of the model, and as ema_... of its averaged weights where there are any."""
        numbers = self.accuracy(train_state.model, name, images, indices, folder)
        if train_state.average:
            numbers |= self.accuracy(train_state.average.model, f"ema_{name}", images, indices)
        return numbers

    def calibration(self) -> dict[str, Any]:
        """The temperatures of the weights that were just measured, as a checkpoint's metadata has them."""
        fits = self._temperatures.items()
        return {network: fit.to_dict() for network, fit in fits if fit is not None}

    def final_evaluation(
        self, train_state: TrainState, run_folder: Run, test: ImageSet, loop: Loop
    ) -> dict[str, float]:
        """Test accuracy of the last weights, then of those that the validation images selected."""
        numbers = self.evaluate_with_ema(train_state, "test", test, folder=run_folder.folder)
        when = "the last epoch" if loop.done >= loop.total else f"step {loop.done} of {loop.total}"
        ranks.log(f"after {when}: {_shown(numbers, 'test')}")
        if train_state.average:
            ranks.log(f"its averaged weights: {_shown(numbers, 'ema_test')}")
        best = train_state.best
        if best.epoch is not None and best.value is not None:
            stored = ranks.broadcast_object(lambda: checkpoint.load(run_folder.folder / BEST))
            train_state.model.load_state_dict(stored.state["model"])
            numbers |= self.accuracy(train_state.model, "selected_test", test)
            numbers |= {"selected_epoch": best.epoch, f"selected_{best.metric}": best.value}
            accuracy = METRICS_IN_WORDS[best.metric]
            selected = f"epoch {best.epoch}, selected by its validation {accuracy} {best.value:.2f}"
            ranks.log(f"{selected}: {_shown(numbers, 'selected_test')}")
        if not has_result(run_folder, loop.done):  # else a finished run was started again
            run_folder.log(loop.done, **numbers)
        return numbers


def has_result(run_folder: Run, step: int) -> bool:
    """Whether there is the row of a final evaluation; those of epochs' ends, maybe of that step, say the epoch."""
    at_step = [row for row in run_folder.rows() if row["step"] == step]
    return any("test_top1" in row and "epoch" not in row for row in at_step)


def forget_lost_best(train_state: TrainState, run_folder: Run) -> None:
    """Where the weights that a resumed run selected cannot be read any more, that is said and it selects anew."""
    if train_state.best.epoch is None:
        return
    problem = ranks.broadcast_object(lambda: _problem(run_folder.folder / BEST))
    if problem:
        ranks.log(
            f"{problem}: the weights that epoch {train_state.best.epoch} was selected for are lost, and only "
            "later epochs can be selected"
        )
        train_state.best = BestEpoch(train_state.best.metric)


def _problem(path: Path) -> str | None:
    """Why a checkpoint cannot be read."""
    try:
        checkpoint.load(path)
    except (ValueError, OSError) as error:
        return str(error)
    return None


def evaluate_file(
    recipe: Recipe, file: Pretrained, device: torch.device, dtype: torch.dtype | None
) -> dict:
    """The accuracy of a finetuned checkpoint on labelled images, and nothing else."""
    path = file.path
    if path is None or not file.head:
        raise ValueError(
            f"{path} has no classifier, it was not finetuned: without --eval it is finetuned"
        )
    images, words = load_scored(recipe, file)
    asked = recipe.start.pretrained_weights or recipe.run.output_dir
    say_which(asked, file, "--pretrained_weights ")
    folder = make_folder(results_folder(recipe, path), states_output(recipe))
    channels = images.pixels.shape[1]
    check_channels(file, channels)
    options = backbone_options(recipe, file.metadata.backbone, size_of(images), channels)
    backbone = registry.backbone(**options)
    model = Classifier(backbone, len(images.classes))
    fill_backbone(backbone, file, options["arch"], strict=True)
    model.load_heads(file.head, file.second_head)

    transform = eval_transform(file.metadata, options["image_size"], images)
    evaluation = Evaluation(build_objective(recipe), transform, device, dtype)
    progress = Progress(1, 0, len(images))
    numbers = evaluation.accuracy(model.to(device), "test", images, folder=folder)
    progress.step()
    ranks.log(f"{_shown(numbers, 'test')} of {path}")
    result = {"status": "finished", "scored": words, "images": evaluation.measured, **numbers}
    result |= {**progress.total(), "checkpoint": str(path)}
    result["output_dir"] = str(folder) if folder else None
    if folder:
        with optional(str(folder / "result.json")):
            (folder / "result.json").write_text(json.dumps(result) + "\n")
    return result


def write_confusion(confusion: Confusion, folder: Path) -> None:
    """confusion.json and confusion.png."""
    path = folder / "confusion.json"
    with optional(str(path)):
        path.write_text(json.dumps(confusion.to_dict()) + "\n")
        ranks.log(f"confusions and the accuracy of each class: {path}")
    picture = folder / "confusion.png"
    with optional(str(picture)):
        draw_confusion(confusion.counts, confusion.classes, picture)


def _shown(numbers: dict[str, float], name: str) -> str:
    return (
        f"test top-1 {numbers[f'{name}_top1']:.2f}, top-5 {numbers[f'{name}_top5']:.2f}, "
        f"balanced {numbers[f'{name}_balanced_accuracy']:.2f}"
    )
