"""Who teaches stage two's student, and what of it: the flags of guidance and distillation, a part of recipe.py."""

from dataclasses import dataclass
from typing import Literal

from ..supervised.distillation import LogitDistillation
from .parts import require

AMOUNTS = ("guide_weight", "kd_weight", "kd_floor", "ce_weight")


@dataclass(frozen=True)
class TeacherFlags:
    teacher: str | None = None
    """File or run folder of the teacher: of finetune.py, published or of timm; any backbone (None: none)."""
    teacher_arch: str | None = None
    """Its architecture, of a file that does not say: resnet56, timm:<name>, ..."""
    teacher_image_size: int | None = None
    """Side in pixels at which the teacher sees the student's images (None: the file's, else the architecture's)."""
    teacher_bn: Literal["running", "batch"] = "running"
    """What the teacher's batch norms use: its running statistics; batch, as published: those of what each rank and part
    holds, so that a batch cut otherwise gives other numbers."""
    guidance: Literal["none", "linear", "attention", "similarity"] = "none"
    """What of the teacher's maps the student's follow: all of them, by learned projections, as published (linear);
    where they are strong (attention); which images are alike (similarity)."""
    guide_weight: float = 2.5
    """Weight of guidance beside the cross-entropy."""
    guide_student: tuple[str, ...] = ()
    """The student's maps that are guided, say blocks.0 blocks.6 blocks.11 (none: the first, the last, between them)."""
    guide_teacher: tuple[str, ...] = ()
    """The teacher's maps that guide them, in the same order, say s1 s2 s3 (none: the end of each stage)."""
    guidance_features: str | None = None
    """Folder of the teacher's maps that precompute.py has stored, in place of running it (None: run it)."""
    distillation: Literal["none", "soft", "hard", "decoupled"] = "none"
    """What of the teacher's logits the student's follow: probabilities (soft), the first class (hard), or the label's
    and the others' probabilities apart (decoupled)."""
    kd_weight: float = 9.0
    """Weight of distillation beside the cross-entropy (published: 10 for DeiT; plain soft distillation 1)."""
    kd_temperature: float = 2.0
    """Logits are divided by this."""
    kd_standardise: bool = True
    """Bring both logits of each image to mean 0 and deviation 1 first."""
    kd_floor: float = 0.1
    """Least deviation by which logits are divided; 0 as published, where a head of zeros gets huge gradients."""
    ce_weight: float = 1.0
    """Weight of the cross-entropy (published with distillation: 0.5)."""

    def check_teacher(self) -> None:
        """ValueError names the flag whose value is out of range, or the flags that do not go together."""
        for name in AMOUNTS:
            require(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")
        require(self.kd_temperature > 0, "kd_temperature", self.kd_temperature, "must be above 0")
        size = self.teacher_image_size
        require(size is None or size >= 1, "teacher_image_size", size, "must be at least 1")
        self._check_maps()
        self._check_presence()
        if self.guidance_features:
            check_offline(self)

    def _check_maps(self) -> None:
        for name in ("guide_student", "guide_teacher"):
            given = getattr(self, name)
            require(not given or self.guides, name, " ".join(given), "needs --guidance")
        own, theirs = len(self.guide_student), len(self.guide_teacher)
        if own and theirs and own != theirs:
            raise ValueError(
                f"{own} maps in --guide_student and {theirs} in --guide_teacher do not make pairs"
            )

    def _check_presence(self) -> None:
        require(
            not self.guides or self.teacher or self.guidance_features,
            "guidance", self.guidance, "needs --teacher FILE (or --guidance_features FOLDER)",
        )  # fmt: skip
        require(
            not self.distils or self.teacher,
            "distillation",
            self.distillation,
            "needs --teacher FILE",
        )
        require(
            not self.guidance_features or self.guides,
            "guidance_features",
            self.guidance_features,
            "needs --guidance",
        )
        require(
            not self.teacher or self.guides or self.distils,
            "teacher", self.teacher, "teaches nothing: give --guidance or --distillation",
        )  # fmt: skip
        idle = self.guidance_features and not self.distils
        require(
            not (self.teacher and idle),
            "teacher",
            self.teacher,
            "is not needed with --guidance_features",
        )
        frozen = self.guides and self.freeze_backbone
        require(
            not frozen, "guidance", self.guidance, "guides the backbone: not with --freeze_backbone"
        )
        for name in ("teacher_arch", "teacher_image_size"):
            value = getattr(self, name)
            require(value is None or self.teacher, name, value, "needs --teacher FILE")
        require(
            self.distillation != "decoupled" or not self.mixes,
            "distillation", self.distillation, "needs one label for each image: --mix_prob 0",
        )  # fmt: skip

    @property
    def guides(self) -> bool:
        return self.guidance != "none"

    @property
    def distils(self) -> bool:
        return self.distillation != "none"

    @property
    def runs_teacher(self) -> bool:
        """Whether the teacher itself sees each batch: for its logits, or for maps that are not stored."""
        return self.distils or (self.guides and not self.guidance_features)

    @property
    def mixes(self) -> bool:
        """Whether batches may be mixed, by the flags of augmentation_flags.py."""
        return self.mix_prob > 0 and (self.cm or self.mu)

    def distiller(self) -> LogitDistillation | None:
        """The term for logits; None where there is none."""
        if not self.distils:
            return None
        return LogitDistillation(
            self.distillation, temperature=self.kd_temperature, weight=self.kd_weight,
            standardised=self.kd_standardise, floor=self.kd_floor,
        )  # fmt: skip

    def check_classes(self, file, classes: tuple[str, ...], dataset: str) -> None:
        """ValueError unless the logits of the teacher's file (weights/pretrained.py) are of these classes.

        Guidance needs no classes, so that it may come from a network of another data set.
        """
        if self.distils:
            if not file.head:
                raise ValueError(
                    f"--teacher {file.path} has no classifier, and --distillation is of its logits"
                )
            file.check_classes(classes, dataset)


def check_offline(r) -> None:
    """ValueError unless stored maps can follow what a recipe does to images: they are cut and flipped, no more."""
    stored = "stored maps are only cut and flipped as the images are"
    if r.aa:
        moves = "rotates, shears and translates images"
        raise ValueError(
            f"--guidance_features: {stored}, but --aa_policy {r.aa_policy} {moves}: --aa false"
        )
    if r.mixes:
        kinds = " and ".join(name for name, on in (("CutMix", r.cm), ("MixUp", r.mu)) if on)
        raise ValueError(
            f"--guidance_features: {stored}, but {kinds} would mix images alone: --mix_prob 0"
        )
