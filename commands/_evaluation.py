"""The accuracy of a classifier: finetune.py measures it at epochs' ends, and --eval that of a file alone."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn as nn
from torch import Tensor

from multicrop.augment.evaluation import EvalTransform
from multicrop.commands import _images
from multicrop.commands._train_state import Networks
from multicrop.config.finetune import Recipe
from multicrop.datasets._images import LoadOptions
from multicrop.engine import checkpoint, ranks
from multicrop.engine.loop import Loop
from multicrop.engine.progress import Progress
from multicrop.engine.run import Run
from multicrop.probes.accuracy import accuracies
from multicrop.probes.confusion import Confusion
from multicrop.probes.features import features
from multicrop.registry import backbone, find
from multicrop.supervised.classifier import Classifier
from multicrop.weights import pretrained
from multicrop.weights.pretrained import File

BEST = "best.pt"


def evaluate(r: Recipe, file: File, device: torch.device, cast: torch.dtype | None) -> dict:
    """The test accuracy of a finetuned checkpoint, and nothing else."""
    if not file.head:
        raise ValueError(
            f"{file.path} has no classifier, it was not finetuned: without --eval it is finetuned"
        )
    described = file.about.get("backbone", {})
    load_options = LoadOptions(r.stored_side(described), r.download, r.stream, r.workers)
    (test,) = _images.load_labelled(r.dataset, r.datapath, load_options, splits=("test",))
    file.check_classes(test.classes, r.dataset)
    options = r.backbone(described, test.pixels.shape[-1], test.pixels.shape[1])
    model = Classifier(backbone(**options), len(test.classes))
    pretrained.fill(model.backbone, file, options["arch"], whole=True)
    model.load_heads(file.head, file.second_head)
    objective = find("supervised.objectives", r.objective).Objective(r.smoothing if r.ls else 0.0)
    data = file.about.get("data", {"mean": test.mean, "std": test.std})
    measure = measuring(objective, {"backbone": options, "data": data}, device, cast)
    progress = Progress(1, 0, len(test))
    found = measure(
        model.to(device),
        "test",
        test,
        folder=file.path.parent if os.access(file.path.parent, os.W_OK) else None,
    )
    progress.step()
    ranks.say(f"test top-1 {found['test_top1']:.2f}, top-5 {found['test_top5']:.2f} of {file.path}")
    return {"status": "finished", **found, **progress.total(), "checkpoint": str(file.path)}


def measuring(objective: nn.Module, about: dict, device: torch.device, cast) -> Callable:
    """`accuracy` of models that such a checkpoint describes."""
    data = about["data"]
    size, crop_pct = about["backbone"]["image_size"], data.get("crop_pct")
    transform = EvalTransform(size, data["mean"], data["std"], crop_pct=crop_pct)
    return partial(
        accuracy, objective, partial(features, transform=transform, device=device, autocast=cast)
    )


@torch.no_grad()
def accuracy(
    objective: nn.Module, embed: Callable, model: Classifier, name: str, split, chosen: Tensor | None = None, *,
    folder: Path | None = None,
) -> dict[str, float]:  # fmt: skip
    """Loss in nats, top-1 and top-5 accuracy in percent of a split, or of those chosen; every rank takes a share.

    `embed` turns a model, pixels and the indices of some into their logits. folder: where to write the confusions.
    """
    mine = (torch.arange(len(split)) if chosen is None else chosen)[ranks.rank() :: ranks.world()]
    logits = ranks.gather(embed(model, split.pixels, chosen=mine))
    labels = ranks.gather(split.labels[mine]).to(logits.device)
    top1, top5 = accuracies(logits, labels)
    if folder and ranks.rank() == 0:
        with checkpoint.one_line(folder / "confusion.json"):
            ranks.say(
                f"confusions and the accuracy of each class: {Confusion(logits, labels, split.classes).save(folder)}"
            )
    return {
        f"{name}_loss": objective(logits, labels).item(),
        f"{name}_top1": top1,
        f"{name}_top5": top5,
    }


def both(measure: Callable, nets: Networks, name: str, *split, **how) -> dict[str, float]:
    """Accuracies of the model, and as ema_... of its averaged weights where there are any."""
    found = measure(nets.model, name, *split, **how)
    return found | (measure(nets.average.model, f"ema_{name}", *split) if nets.average else {})


def conclude(measure: Callable, nets: Networks, run: Run, data, loop: Loop) -> dict[str, float]:
    """Test accuracy of the last weights, then of those that the validation images selected."""
    found = both(measure, nets, "test", data.test, folder=run.folder)
    when = "the last epoch" if loop.done >= loop.whole else f"step {loop.done} of {loop.whole}"
    ranks.say(f"after {when}: test top-1 {found['test_top1']:.2f}, top-5 {found['test_top5']:.2f}")
    if nets.average:
        ranks.say(
            f"its averaged weights: test top-1 {found['ema_test_top1']:.2f}, top-5 {found['ema_test_top5']:.2f}"
        )
    if nets.best.found:
        nets.model.load_state_dict(ranks.share(lambda: checkpoint.load(run.folder / BEST)["model"]))
        best = measure(nets.model, "selected_test", data.test)
        epoch, top1 = nets.best.found["epoch"], nets.best.found["val_top1"]
        found |= best | {"selected_epoch": epoch, "selected_val_top1": top1}
        ranks.say(
            f"epoch {epoch}, selected by its validation top-1 {top1:.2f}: "
            f"test top-1 {best['selected_test_top1']:.2f}, top-5 {best['selected_test_top5']:.2f}"
        )
    run.log(loop.done, **found)
    return found
