"""What is said of classes that have unequally many images, or none where accuracies are measured."""

from torch import Tensor

from multicrop.commands._finetune_data import FinetuneData
from multicrop.config.finetune import Recipe
from multicrop.datasets._images import ImageSet

UNEQUAL = 10  # times the smallest class from which on the largest one hides it in a top-1 accuracy
NAMED = 3  # classes that are named


def lines(recipe: Recipe, data: FinetuneData) -> list[str]:
    """Lines for people, none for a set whose classes are alike."""
    counts = class_counts(data.train, data.chosen)
    said = unequal_classes(recipe, counts)
    said += classes_without(class_counts(data.test), "test images")
    if not data.shows_test:
        validated = dict(zip(counts, data.validation_counts.tolist(), strict=True))
        why = "" if data.validation else " (their only training image is not held out)"
        said += classes_without(validated, f"validation images{why}")
    return said


def class_counts(images: ImageSet, indices: Tensor | None = None) -> dict[str, int]:
    """Images of each class, of some of a split's images or of all."""
    assert images.labels is not None
    labels = images.labels if indices is None else images.labels[indices]
    counts = labels.bincount(minlength=len(images.classes)).tolist()
    return dict(zip(images.classes, counts, strict=True))


def unequal_classes(recipe: Recipe, counts: dict[str, int]) -> list[str]:
    """A warning where the largest class has ten times the images of the smallest, with the flags that help."""
    words = unequal(counts)
    if words is None:
        return []
    helps = []
    if not recipe.optimisation.balanced_sampler and recipe.optimisation.class_weights == "none":
        helps.append("--balanced_sampler or --class_weights auto trains them alike")
    if recipe.run.select == "top1":
        helps.append("--select balanced takes the epoch that is best over classes")
    return ["; ".join([f"warning: {words}", *helps])]


def unequal(counts: dict[str, int]) -> str | None:
    """What to say where the largest class has ten times the images of the smallest."""
    smallest = min(counts, key=lambda name: counts[name])
    largest = max(counts, key=lambda name: counts[name])
    if counts[largest] < UNEQUAL * counts[smallest]:
        return None
    return (
        f"classes are unequal, {counts[largest]} training images of {largest} and {counts[smallest]} of {smallest}: "
        "look at the balanced accuracy beside top-1"
    )


def classes_without(counts: dict[str, int], what: str) -> list[str]:
    """A warning that names the classes that have none of these images."""
    names = [name for name, count in counts.items() if count == 0]
    if not names:
        return []
    listed = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    return [f"warning: {len(names)} of {len(counts)} classes have no {what}: {listed}"]
