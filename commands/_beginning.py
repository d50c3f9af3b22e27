"""Where stage one begins: random weights, a file's backbone, or all that another run left.

--pretrained_weights FILE alone gives the backbone, with its network's settings. With --extend_epochs N the file is a
run of stage one, whose settings and whole state go on. What is stated on the command line or in a recipe file stays. A
run that is in the folder already is resumed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from multicrop.commands._auto import share_of_batch
from multicrop.commands._changed_data import resume
from multicrop.commands._networks import fill_backbone
from multicrop.commands._origin import check_reads_folder
from multicrop.commands._student import TrainState
from multicrop.config.backbone import BackboneSettings
from multicrop.config.flags import (
    Given,
    changed_flags,
    flag_types,
    from_flags,
    stated_values,
    to_flags,
    typed,
)
from multicrop.config.pretrain import Recipe
from multicrop.engine import checkpoint, ranks
from multicrop.engine.metadata import Checkpoint, Metadata
from multicrop.engine.run import Run
from multicrop.weights import pretrained
from multicrop.weights.pretrained import Pretrained

ONLY_THIS_RUN = (
    "output_dir",
    "max_steps",
    "pretrained_weights",
    "extend_epochs",
    "minutes",
    "epochs",
)
"""Settings that an extended run does not take over."""
OF_THE_STATE = (
    "objective", "out_dim", "mlp_head_in", "head_hidden_dim", "head_bottleneck_dim", "use_bn_in_head",
    "norm_last_layer", "optimizer", "label_weight",
)  # fmt: skip
"""Settings beside the backbone's that say what is in a run's state."""


@dataclass(frozen=True)
class Origin:
    """What --pretrained_weights names."""

    file: Pretrained | None = None
    run: Checkpoint | None = None
    """All of a run that is extended."""

    @property
    def metadata(self) -> Metadata:
        if self.run:
            return self.run.metadata
        return self.file.metadata if self.file else Metadata(kind="")


def resolve(recipe: Recipe) -> tuple[Recipe, Origin]:
    """The recipe with what follows from --pretrained_weights, and what that flag names; read before any image is.

    A run that is there has its own weights and settings, also when what it began from is gone. ValueError or
    FileNotFoundError in one line where it cannot begin so.
    """
    stated = stated_values(recipe)
    if "datapath" in stated and "dataset" not in stated:
        check_reads_folder(recipe.data.dataset, recipe.data.datapath)
    begin = recipe.begin
    if begin.pretrained_weights is None:
        if begin.extend_epochs:
            raise ValueError("--extend_epochs goes on with a run: name it by --pretrained_weights")
        return recipe, Origin()
    own = ranks.broadcast_object(lambda: _newest_metadata(recipe.run.output_dir))
    if own is not None:
        return _going_on(recipe, own), Origin()
    if begin.extend_epochs:
        run = ranks.broadcast_object(lambda: read_run(recipe))
        return _extended(recipe, run.metadata), Origin(run=run)
    file = ranks.broadcast_object(lambda: _read_file(recipe))
    values = {name: file.metadata.backbone[name] for name in _network_names(file.metadata)}
    return _with(recipe, values, f"the network of {file.path}"), Origin(file=file)


def begin(
    recipe: Recipe, origin: Origin, train_state: TrainState, run: Run, metadata: Metadata
) -> tuple[int, Metadata]:
    """Give the networks their first or their latest weights; the step to go on from, and the metadata with ancestry."""
    stored = run.stored()
    if stored is not None:
        before = stored.metadata
        metadata = replace(metadata, ancestry=before.ancestry)
        return resume(train_state, run, before, metadata, recipe.begin.resume_changed_data)
    if origin.run:
        _load_run(train_state, origin.run, recipe)
    elif origin.file:
        options = recipe.backbone.options()
        student = train_state.student.backbone
        fill_backbone(student, origin.file, options["arch"], options=options)
        learned = student.state_dict()
        train_state.teacher.backbone.load_state_dict(learned)
    else:
        return 0, metadata
    return 0, metadata.descending(str(recipe.begin.pretrained_weights), origin.metadata)


# Settings


def _going_on(recipe: Recipe, own: Metadata) -> Recipe:
    """With the settings of the run that is there, which say what does not fit once its images are known."""
    if own.kind != "ssl":  # Run.resume says what is wrong with others
        return recipe
    kept = {
        name: value
        for name, value in own.recipe.items()
        if name not in recipe.OPERATIONAL or name == "datapath"
    }
    values = kept | share_of_batch(recipe, own.identity["global_batch"])
    return replace(_with(recipe, values), given=recipe.given)


def _extended(recipe: Recipe, old: Metadata) -> Recipe:
    """With the settings of the run that is extended, but for its schedules.

    The rule: a warm restart (Loshchilov and Hutter 2017, arXiv 1608.03983) at half of the peak learning rate, after a
    warm-up of a twentieth of the new epochs; weight decay and teacher temperature stay where the run left them, and
    nothing is frozen. The teacher's momentum begins again where it began.
    """
    taken = {name: value for name, value in old.recipe.items() if name not in ONLY_THIS_RUN}
    taken |= share_of_batch(recipe, old.identity["global_batch"])
    epochs = recipe.begin.extend_epochs
    assert epochs is not None
    schedules = {
        "epochs": epochs,
        "lr": old.recipe["lr"] / 2,
        "warmup_epochs": epochs / 20,
        "weight_decay": old.recipe["weight_decay_end"],
        "warmup_teacher_temp_epochs": 0,
        "freeze_last_layer": 0,
    }
    stated, stated_path = _stated(recipe), recipe.begin.pretrained_weights
    if "epochs" in stated:
        raise ValueError("--extend_epochs says how many epochs: leave --epochs out")
    changed = [
        f"--{name} {typed(value)}" for name, value in schedules.items() if name not in stated
    ]
    ranks.log(
        f"{recipe.begin.pretrained_weights} (epoch {old.epoch:g}) goes on for {epochs} epochs in "
        f"{recipe.run.output_dir}: a warm restart with {', '.join(changed)}"
    )
    recipe = _with(recipe, taken | schedules)
    return replace(recipe, given=replace(recipe.given or Given(), recipe=stated_path))


def _with(recipe: Recipe, values: Mapping[str, Any], source: str | None = None) -> Recipe:
    """The recipe with these values where none was stated; --recipe auto leaves them alone, too.

    source: what they come from, to be said.
    """
    stated = _stated(recipe)
    known = flag_types(Recipe)
    taken = {name: value for name, value in values.items() if name in known and name not in stated}
    if source and taken:
        ranks.log(f"{source}: {', '.join(f'--{name} {typed(v)}' for name, v in taken.items())}")
    given = (
        recipe.given
    )  # None of a recipe made in Python, which asks for nothing that follows from the images
    if given is not None:
        given = replace(given, flags=(*given.flags, *taken))
    return replace(from_flags(Recipe, to_flags(recipe) | taken), given=given)


def _stated(recipe: Recipe) -> set[str]:
    """The settings that the command line or a recipe file has."""
    flags = recipe.given.flags if recipe.given else ()
    return {*flags, *changed_flags(recipe)}


def _network_names(metadata: Metadata) -> list[str]:
    """The settings of the backbone that a file of ours states."""
    names = flag_types(BackboneSettings)
    return [
        name for name, value in metadata.backbone.items() if name in names and value is not None
    ]


# Weights


def _newest_metadata(folder: str | Path) -> Metadata | None:
    newest = checkpoint.newest(Path(folder), ranks.log)
    return newest[0].metadata if newest else None


def _read_file(recipe: Recipe) -> Pretrained:
    begin = recipe.begin
    assert begin.pretrained_weights is not None
    return pretrained.read(begin.pretrained_weights, begin.checkpoint_key, begin.trust_checkpoint)


def read_run(recipe: Recipe) -> Checkpoint:
    """The checkpoint that is extended. ValueError unless it is of a finished stage one, with its whole state."""
    path = Path(str(recipe.begin.pretrained_weights)).expanduser()
    if path.is_dir():
        newest = checkpoint.newest(path, ranks.log)
        if newest is None:
            raise FileNotFoundError(f"no checkpoint at {path}: no run has saved one in this folder")
        stored, path = newest
    else:
        stored = checkpoint.load(path)
    if stored.metadata.kind != "ssl":
        raise ValueError(f"--extend_epochs goes on with a run of stage one: {path} is of none")
    missing = [part for part in TrainState.PARTS if part not in stored.state]
    if missing:
        raise ValueError(
            f"{path} was kept without {' and '.join(missing)}: --extend_epochs needs the run's folder or its newest "
            "checkpoint; --pretrained_weights alone takes its backbone"
        )
    metadata = stored.metadata
    total = metadata.identity.get("steps_per_epoch", 0) * metadata.recipe.get("epochs", 0)
    if metadata.step < total:
        raise ValueError(
            f"--extend_epochs goes on with a finished run, and {path} is at step {metadata.step} of {total}: "
            "the command that began it finishes it"
        )
    return stored


def _load_run(train_state: TrainState, run: Checkpoint, recipe: Recipe) -> None:
    """ValueError where the flags ask for another network or head than the run has; it names them."""
    try:
        train_state.load_state(run.state)
    except (RuntimeError, ValueError):
        before, now = run.metadata.recipe, to_flags(recipe)
        shapes = (*flag_types(BackboneSettings), *OF_THE_STATE)
        others = [name for name in shapes if name in before and before[name] != now[name]]
        flags = ", ".join(
            f"--{name} {typed(now[name])} (there {typed(before[name])})" for name in others
        )
        raise ValueError(
            f"--extend_epochs goes on with the whole state of {recipe.begin.pretrained_weights}, which does not fit "
            f"{flags or 'these images'}: leave their flags out, or --extend_epochs to begin from the backbone alone"
        ) from None
