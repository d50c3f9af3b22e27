"""The model card of an exported network, written from its run: data, recipe, accuracies, licence, how to load it."""

from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import ModelCardData

from multicrop.commands._export_command import command_of
from multicrop.commands._export_network import Exported
from multicrop.commands._export_timm import OF_TIMM, load_lines
from multicrop.commands._kept import AVERAGED, BEST
from multicrop.config.sizes import height_width
from multicrop.engine.run import read_metrics
from multicrop.registry import source
from multicrop.weights.pretrained import AVERAGE

FEW_CLASSES = 20  # are all named in the text; config.json names all of any number
PERCENT = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "knn_top1": "k-NN top-1 accuracy of the features (k = 20, neighbours: training images)",
    "knn_random_weights": "the same of random weights",
    "knn_start_weights": "the same of the weights that it started from",
    "knn_raw_pixels": "the same of raw pixels",
}
STAGES = {"ssl": "pretrained without labels", "finetune": "trained with labels"}
UNSTATED = "other"  # the Hub's word for a licence that is none of its list


class Accuracy(NamedTuple):
    """One measured number in percent, and the split whose images it was measured on."""

    metric: str
    split: str
    value: float


def accuracies(exported: Exported) -> list[Accuracy]:
    """What the run folder says of these very weights; [] where it says nothing."""
    rows = read_metrics(exported.path.parent)
    metadata = exported.metadata
    if metadata.kind == "ssl":
        return _knn_accuracies(rows, metadata.step) if exported.key == "teacher" else []
    selected = exported.path.name == BEST
    prefix = "selected_" if selected else ""
    if exported.path.name == AVERAGED or exported.key == AVERAGE:
        prefix = "ema_"
    numbers: dict[str, Any] = {}
    for row in rows:
        # The weights that validation selected are measured at the end, long after their step.
        if row["step"] == metadata.step or (selected and "selected_test_top1" in row):
            numbers |= row
    found = []
    for split, word in (("test", "test"), ("val", "validation")):
        for top in ("top1", "top5"):
            value = numbers.get(f"{prefix}{split}_{top}")
            if value is not None:
                found.append(Accuracy(PERCENT[top], word, value))
    return found


def _knn_accuracies(rows: list[dict], step: int) -> list[Accuracy]:
    """The k-NN probe of a step and its baselines, which are measured before the first one."""
    measured = {
        "knn_top1": step,
        "knn_start_weights": 0,
        "knn_random_weights": 0,
        "knn_raw_pixels": 0,
    }
    found = []
    for name, at in measured.items():
        values = [row[name] for row in rows if name in row and row["step"] == at]
        if values:
            found.append(Accuracy(PERCENT[name], "test", values[-1]))
        elif name == "knn_top1":
            break
    return found


def model_card(exported: Exported, name: str | None, license: str | None) -> str:
    """README.md of the folder."""
    name = name or exported.path.resolve().parent.name
    parts = [
        f"---\n{_header(exported, license)}\n---",
        f"# {name}",
        _introduction(exported),
        _load_section(exported),
        _data_section(exported),
        _accuracy_section(exported),
        _recipe_section(exported),
        _license_section(license),
    ]
    return "\n\n".join(parts) + "\n"


def _header(exported: Exported, license: str | None) -> str:
    task = "image-classification" if exported.classes else "image-feature-extraction"
    data = ModelCardData(
        library_name="timm",
        license=license or UNSTATED,
        pipeline_tag=task,
        tags=[task, "timm", "multicrop"],
    )
    return data.to_yaml().strip()


def _introduction(exported: Exported) -> str:
    weights = sum(parameter.numel() for parameter in exported.network.parameters())
    (height, width), channels = height_width(exported.size), exported.channels
    stage = "pretrained without labels (DINO-style multi-crop self-distillation)"
    gives = f"features of width {exported.backbone.dim}"
    if exported.metadata.kind == "finetune":
        stage = "trained with labels"
    if exported.classes:
        gives = f"logits of {len(exported.classes)} classes"
    if exported.temperature:
        gives += f", whose probabilities are softmax(logits / {exported.temperature:.6g})"
    return (
        f"`{exported.arch}`, {stage} with multicrop: images of {height} x {width} px and "
        f"{channels} channels -> {gives}. {weights:,} weights."
    )


def _load_section(exported: Exported) -> str:
    lines = load_lines(exported, "hf-hub:USER/NAME")
    lines += [
        "config = timm.data.resolve_model_data_config(model)",
        "transform = timm.data.create_transform(**config, is_training=False)",
        "",
        "from PIL import Image",
        'image = Image.open("image.png").convert("'
        + ("L" if exported.channels == 1 else "RGB")
        + '")',
        "output = model(transform(image)[None])",
    ]
    if exported.classes:
        lines.append('print(model.pretrained_cfg["label_names"][output.argmax()])')
    ours = not exported.arch.startswith(OF_TIMM)
    needs = "It needs timm and multicrop." if ours else "It needs timm alone."
    code = "\n".join(lines)
    return (
        f"## How to load it\n\n{needs} `local-dir:FOLDER` in place of `hf-hub:USER/NAME` reads a folder.\n\n"
        f"```python\n{code}\n```"
    )


def _data_section(exported: Exported) -> str:
    data, identity = exported.metadata.data, exported.metadata.identity
    dataset = data["dataset"]
    data_set = source(dataset)
    title = "images of the publisher's own" if data_set.own else data_set.data_set.title
    lines = [f"- Data set: {title} (`{dataset}`)"]
    if "images" in identity:
        lines.append(f"- Training images: {identity['images']}")
    if exported.classes:
        names = ", ".join(exported.classes[:FEW_CLASSES])
        more = len(exported.classes) - FEW_CLASSES
        rest = f" and {more} more, all in config.json" if more > 0 else ""
        lines.append(f"- Classes, in the order of the logits: {names}{rest}")
    mean = ", ".join(f"{value:.4f}" for value in data["mean"])
    std = ", ".join(f"{value:.4f}" for value in data["std"])
    lines.append(
        f"- Images are normalised by the mean {mean} and the deviation {std} of levels in 0..1"
    )
    return "## Data\n\n" + "\n".join(lines)


def _accuracy_section(exported: Exported) -> str:
    rows = accuracies(exported)
    if not rows:
        return "## Accuracies\n\nNone of these weights is written down in their run folder."
    table = ["| measured | split | percent |", "|---|---|---|"]
    table += [f"| {row.metric} | {row.split} | {row.value:.2f} |" for row in rows]
    words = ""
    if exported.path.name == BEST:
        words = "\n\nThe validation accuracy selected these weights among all epochs; the test images took no part."
    return "## Accuracies\n\n" + "\n".join(table) + words


def _recipe_section(exported: Exported) -> str:
    metadata = exported.metadata
    start = f" It started from {_ancestry(exported)}." if metadata.ancestry else ""
    return (
        f"## Recipe\n\nAfter epoch {metadata.epoch:g} (step {metadata.step}) of the run below; what is not named has "
        f"multicrop's default, and of paths the last part is left.{start}\n\n```bash\n{command_of(metadata)}\n```"
    )


def _ancestry(exported: Exported) -> str:
    """What the weights began from, and what these began from, the latest first."""
    names = []
    for ancestor in reversed(exported.metadata.ancestry):
        words = [STAGES.get(ancestor["kind"], "another program's file")]
        if ancestor["dataset"]:
            words += [f"data set `{ancestor['dataset']}`", f"epoch {ancestor['epoch']:g}"]
        names.append(f"the weights `{Path(ancestor['weights']).name}` ({', '.join(words)})")
    return ", these from ".join(names)


def _license_section(license: str | None) -> str:
    if license:
        return f"## Licence\n\nThe weights: {license}."
    return (
        "## Licence\n\nNone is stated: whoever publishes the weights chooses one, as far as the images that they were "
        "trained on allow it (`license` at the top of this file; `multicrop export --license`)."
    )
