"""Who teaches stage two's student, and what of it: guidance and distillation, a part of finetune.py."""

from dataclasses import dataclass
from typing import Literal

from .checks import ABOVE_0, AT_LEAST_1, NOT_NEGATIVE, check_values, require
from .sizes import ImageSize, shortest


@dataclass(frozen=True)
class Teaching:
    """The teacher, and what the student takes over from it."""

    teacher: str | None = None
    """File or run folder of the teacher: of finetune.py, of others, or published:NAME; any backbone (None: none)."""
    teacher_key: str = "teacher"
    """Which network of a file of the teacher that holds several: teacher or student of stage one, average of stage two,
    or the name of any part of another program's file."""
    teacher_arch: str | None = None
    """Its architecture, of a file that does not say: resnet56, timm:<name>, ..."""
    teacher_image_size: ImageSize | None = None
    """Side in pixels at which the teacher sees the student's images, or height and width (None: the
    file's, else the architecture's)."""
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
    """Folder of the teacher's maps that multicrop precompute has stored, in place of running it (None: run it)."""
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

    def __post_init__(self):
        check_values(self, NOT_NEGATIVE, "guide_weight", "kd_weight", "kd_floor", "ce_weight")
        check_values(self, ABOVE_0, "kd_temperature")
        check_values(self, AT_LEAST_1, "teacher_image_size")
        if self.teacher_image_size is not None:
            object.__setattr__(self, "teacher_image_size", shortest(self.teacher_image_size))
        self._check_maps()
        self._check_presence()

    def _check_maps(self) -> None:
        for name in ("guide_student", "guide_teacher"):
            maps = getattr(self, name)
            require(not maps or self.guides, name, maps, "needs --guidance")
        own, others = len(self.guide_student), len(self.guide_teacher)
        if own and others and own != others:
            raise ValueError(
                f"{own} maps in --guide_student and {others} in --guide_teacher do not make pairs"
            )

    def _check_presence(self) -> None:
        """What needs a teacher has one, and a teacher has something to teach."""
        has_maps = self.teacher or self.guidance_features
        words = "needs --teacher FILE (or --guidance_features FOLDER)"
        require(not self.guides or has_maps, "guidance", self.guidance, words)
        words = "needs --teacher FILE"
        require(not self.distils or self.teacher, "distillation", self.distillation, words)
        words = "needs --guidance"
        features = self.guidance_features
        require(not features or self.guides, "guidance_features", features, words)
        words = "teaches nothing: give --guidance or --distillation"
        require(not self.teacher or self.guides or self.distils, "teacher", self.teacher, words)
        idle = features and not self.distils
        words = "is not needed with --guidance_features"
        require(not (self.teacher and idle), "teacher", self.teacher, words)
        stated = self.teacher_key != "teacher"
        require(self.teacher or not stated, "teacher_key", self.teacher_key, "needs --teacher FILE")
        for name in ("teacher_arch", "teacher_image_size"):
            value = getattr(self, name)
            require(value is None or self.teacher, name, value, "needs --teacher FILE")

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
