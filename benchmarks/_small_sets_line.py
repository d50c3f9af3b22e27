"""What a line of benchmarks/small_sets.py's results.jsonl says, from what a command printed and left in its run folder.

Accuracies are top-1 on the test images in percent.
"""

import json
import shlex
from dataclasses import fields
from pathlib import Path

import yaml

from benchmarks._jobs import Job, Line
from benchmarks._small_sets_table import collapsed
from multicrop import cli
from multicrop.config.backbone import BackboneSettings


def line_of(where: Line, job: Job, result: Line, needed: list[Line]) -> Line:
    """What a line says beside its labels and its command. where: the machine."""
    what, more = job.labels["what"], {}
    if what == "raw":
        numbers = probe_numbers(probe_row(result, "raw pixels"))
    elif what == "random":
        numbers = probe_numbers(probe_row(result, "random weights"))
    elif what == "pretrained":
        numbers = probe_numbers(checkpoint_row(result))
        pretrained, random = (line["numbers"] for line in needed)
        fate = collapsed(numbers["knn"], random["knn"], pretrained["target_gap"])
        numbers["collapsed"] = fate
    elif what == "pretrain":
        numbers = {name: result[name] for name in ("epoch", "step", "loss")}
        numbers["target_gap"] = last_value(Path(result["output_dir"]), "target_gap")
        recipe = yaml.safe_load((Path(result["output_dir"]) / "recipe.yaml").read_text())
        more = {"network": network_flags(recipe), "inherited": inherited_flags(recipe)}
    else:
        numbers = {name: result[name] for name in ("epoch", "step", "test_top1")}
        numbers |= class_numbers(Path(result["output_dir"]))
    spent = {name: result[name] for name in ("seconds", "cpu_seconds")}
    return {"numbers": numbers, **spent, "machine": where, **more}


def probe_row(result: Line, prefix: str) -> Line:
    """The row of a probe's result whose name begins so. ValueError where there is none."""
    for row in result["results"]:
        if row["checkpoint"].startswith(prefix):
            return row
    raise ValueError(f"the probe has no row of {prefix}")


def checkpoint_row(result: Line) -> Line:
    """The row of the newest checkpoint, after those of the baselines."""
    baselines = ("raw pixels", "random weights")
    return [row for row in result["results"] if not row["checkpoint"].startswith(baselines)][-1]


def probe_numbers(row: Line) -> Line:
    """k-NN with K neighbours, fewer where there are fewer images; linear None where it was not measured."""
    (knn,) = row["top1"].values()
    return {"knn": knn, "linear": row.get("linear_top1")}


def last_value(folder: Path, name: str) -> float | None:
    """The last value of a number in a run's metrics; None where no row has it."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    values = [row[name] for row in map(json.loads, lines) if name in row]
    return values[-1] if values else None


def network_flags(recipe: Line) -> str:
    """The flags that give a pretraining run's backbone to the other commands. recipe: every setting by its flag."""
    names = [field.name for field in fields(BackboneSettings)]
    values = {name: recipe[name] for name in names if recipe[name] is not None}
    return shlex.join(cli.words_of(values))


def inherited_flags(recipe: Line) -> str:
    """The flags that a finetune takes over from its weights, beside the network (commands/_inherited.py).

    Without them scratch would mirror images that the finetune does not.
    """
    return "--flip 0" if recipe.get("crop_flip") == 0 else ""


def class_numbers(folder: Path) -> Line:
    """Mean of the classes' accuracies in percent, and whether the test images are of each class equally many."""
    counts = json.loads((folder / "confusion.json").read_text())["counts"]
    accuracies = [100 * row[label] / sum(row) for label, row in enumerate(counts) if sum(row)]
    equal = len({sum(row) for row in counts}) == 1
    return {"balanced_top1": sum(accuracies) / len(accuracies), "equal_classes": equal}
