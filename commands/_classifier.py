"""The networks of stage two: the classifier, its teacher, its guidance, and all that a step changes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, cast

import torch
import torch.nn as nn
from torch import Tensor

from multicrop import registry
from multicrop.commands._compiler import network_compiler
from multicrop.commands._finetune_data import FinetuneData, MapsOfBatch, images_per_part
from multicrop.commands._networks import build_teacher_backbone, fill_backbone
from multicrop.config.finetune import Recipe
from multicrop.config.sizes import height_width
from multicrop.config.teaching import Teaching
from multicrop.engine import norms, optim, ranks, seeds
from multicrop.engine.fingerprint import dataset_fingerprint, teacher_fingerprint
from multicrop.engine.metadata import Metadata
from multicrop.engine.parameter_groups import select_groups
from multicrop.engine.recomputation import recompute_blocks
from multicrop.supervised.backbone import Backbone, MapSize
from multicrop.supervised.class_weights import inverse_frequencies
from multicrop.supervised.classifier import Classifier
from multicrop.supervised.distillation import LogitDistillation
from multicrop.supervised.ema import Ema
from multicrop.supervised.guidance import Guidance
from multicrop.supervised.loss import Loss
from multicrop.supervised.map_transform import stored_maps_of_batch
from multicrop.supervised.pairs import pair_maps
from multicrop.supervised.selection import BestEpoch
from multicrop.supervised.teacher import Teacher
from multicrop.supervised.train_module import TrainModule
from multicrop.weights import pretrained
from multicrop.weights.pretrained import Pretrained
from multicrop.weights.teacher_maps import StoredMaps


@dataclass
class TrainState:
    """All of stage two that a step changes and a checkpoint holds."""

    model: Classifier
    # A TrainModule as the loop calls it: compiled, gradients averaged over the ranks
    train_module: nn.Module
    loss: Loss
    teacher: Teacher | None
    guidance: Guidance | None  # its projections learn too
    stored_maps: MapsOfBatch | None  # the teacher's maps of a batch, where they are stored
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: Ema | None  # of the model's weights
    best: BestEpoch  # the epoch that the validation images select

    PARTS: ClassVar = ("model", "guidance", "optimizer", "scaler", "best", "average")

    @property
    def evaluated(self) -> nn.Module:
        """The model that is measured and selected: the averaged one where there is one."""
        return self.average.model if self.average else self.model

    def evaluated_as(self, metadata: Metadata) -> Metadata:
        """What a file says whose `model` is the one that is measured."""
        if not self.average:
            return metadata
        found = {network: metadata.calibration.get("average") for network in ("model", "average")}
        calibration = {network: fit for network, fit in found.items() if fit}
        return replace(metadata, calibration=calibration)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def update_average(self, step: int) -> None:
        """Average the weights after so many steps."""
        if self.average:
            self.average.update(self.model, step)

    def state(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        parts = {name: getattr(self, name) for name in self.PARTS}
        return {name: part for name, part in parts.items() if part is not None}


def build(recipe: Recipe, file: Pretrained, data: FinetuneData, device: torch.device) -> TrainState:
    optimisation, teaching = recipe.optimisation, recipe.teaching
    teacher = build_teacher(recipe, data, device)
    seeds.reseed(optimisation.seed, "weights")
    backbone = registry.backbone(**data.backbone)
    model = Classifier(backbone, len(data.train.classes), optimisation.head_init)
    if file.path:
        arch = data.backbone["arch"]
        fill_backbone(backbone, file, arch, quiet=data.reported, options=data.backbone)
    guidance, names, stored_maps = build_guidance(recipe, backbone, teacher, data, device)
    if optimisation.freeze_backbone:
        model.freeze_backbone()
    model = norms.synchronise(model.to(device), device)
    average = None
    if optimisation.ema_decay:
        average = Ema(model, optimisation.ema_decay, warmup=optimisation.ema_warmup)
    if recipe.run.checkpoint_activations:
        recompute_blocks(model.backbone)
    train_module = TrainModule(model, guidance, names, teaching.distils).to(device)
    images = images_per_part(recipe, ranks.world_size())
    compiler = network_compiler(recipe.run, device, images)
    compiler.module(model)  # which evaluations call, so often that each would be a graph of its own
    compiler.module(train_module, in_graphs=True)

    objective = build_objective(recipe, class_weights(recipe, data)).to(device)
    distillation = LogitDistillation.from_recipe(teaching)
    loss = Loss(objective, distillation, teaching.ce_weight, teaching.guide_weight)
    sides = height_width(data.backbone["image_size"])
    example = torch.zeros(2, data.backbone["in_channels"], *sides, device=device)
    groups = select_groups(
        train_module,
        model.backbone,
        optimisation.decay,
        optimisation.no_decay,
        optimisation.layer_decay,
        example,
    )
    optimizer = optim.build_optimizer(
        optimisation.optimizer, groups, optimisation.momentum, optimisation.nesterov
    )
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.run.precision == "fp16")
    wrapped = ranks.wrap(train_module, device)
    best = BestEpoch(recipe.run.selected_metric)
    return TrainState(
        model, wrapped, loss, teacher, guidance, stored_maps, optimizer, scaler, average, best
    )


def build_objective(recipe: Recipe, class_weights: Tensor | None = None) -> nn.Module:
    """The objective on labels; accuracies are reported beside that without class weights, which runs share."""
    optimisation = recipe.optimisation
    smoothing = optimisation.smoothing if optimisation.ls else 0.0
    weighted = {} if class_weights is None else {"class_weights": class_weights}
    objectives = registry.find("supervised.objectives", optimisation.objective)
    return objectives.Objective(smoothing, **weighted)


def class_weights(recipe: Recipe, data: FinetuneData) -> Tensor | None:
    """A weight for each class (classes,), from the training images in use; None without --class_weights."""
    if recipe.optimisation.class_weights == "none":
        return None
    return inverse_frequencies(data.labels[data.chosen], len(data.train.classes))


def build_teacher(recipe: Recipe, data: FinetuneData, device: torch.device) -> Teacher | None:
    """The teacher of --teacher, where it is to see each batch."""
    teaching = recipe.teaching
    path = teaching.teacher
    if path is None or not teaching.runs_teacher:
        return None
    file = ranks.broadcast_object(
        lambda: pretrained.read(
            path, teaching.teacher_key, recipe.start.trust_checkpoint, "--teacher_key"
        )
    )
    check_teacher_classes(teaching, file, data.train.classes, data.dataset)
    channels = data.backbone["in_channels"]
    backbone, size = build_teacher_backbone(
        file, teaching.teacher_arch, teaching.teacher_image_size, channels
    )
    network = backbone
    if file.head:
        network = Classifier(backbone, len(file.head["weight"]))
        network.load_heads(file.head, file.second_head)
    normalisations = None
    if file.metadata.data:
        own = data.train.mean, data.train.std
        normalisations = own, (file.metadata.data["mean"], file.metadata.data["std"])
    return Teacher(network, size, batch_norm=teaching.teacher_bn, normalisations=normalisations).to(
        device
    )


def check_teacher_classes(
    teaching: Teaching, file: Pretrained, classes: tuple[str, ...], dataset: str
) -> None:
    """ValueError unless logits that are distilled are of these classes.

    Guidance needs no classes, so that it may come from a network of another data set.
    """
    if not teaching.distils:
        return
    if not file.head:
        raise ValueError(
            f"--teacher {file.path} has no classifier, and --distillation is of its logits"
        )
    file.check_classes(classes, dataset)


def build_guidance(
    recipe: Recipe,
    student: nn.Module,
    teacher: Teacher | None,
    data: FinetuneData,
    device: torch.device,
) -> tuple[Guidance | None, tuple[str, ...], MapsOfBatch | None]:
    """The loss of the student's maps against the teacher's, the names of the student's, and where the teacher's are
    stored, what gives those of a batch."""
    teaching = recipe.teaching
    if teaching.guidance == "none":
        return None, (), None
    maps: Mapping[str, MapSize]
    stored_maps = None
    if teaching.guidance_features:
        expected = dataset_fingerprint(data.entry, data.train)
        if teacher:
            expected |= teacher_fingerprint(teacher)
        features = StoredMaps.open(teaching.guidance_features, expected)
        own, others = pair_maps(student, features, teaching.guide_student, teaching.guide_teacher)
        height, width = data.train.pixels.shape[2:]
        stored_maps = partial(
            stored_maps_of_batch,
            features.arrays,
            names=others,
            source=(height, width),
            size=data.backbone["image_size"],
            padding=recipe.augmentation.padding,
            device=device,
        )
        maps = features.maps
    else:
        assert teacher is not None
        own, others = pair_maps(
            student, teacher.backbone, teaching.guide_student, teaching.guide_teacher
        )
        teacher.names = others
        maps = teacher.backbone.maps
    own_widths = [cast(Backbone, student).maps[name].width for name in own]
    other_widths = [maps[name].width for name in others]
    pairs = [f"{one} follows {other}" for one, other in zip(own, others, strict=True)]
    ranks.log(f"guidance: {', '.join(pairs)}")
    return Guidance(own_widths, other_widths, teaching.guidance), own, stored_maps
