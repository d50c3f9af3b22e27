"""Every setting of the storing of a teacher's maps, with its unit and default."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from .checks import AT_LEAST_1, check_values
from .data import DataSettings
from .machine import Machine, Precision
from .sizes import ImageSize, shortest


@dataclass(frozen=True)
class StoredTeacher:
    """The teacher."""

    teacher: str | None = None
    """File or run folder of the teacher: of finetune, of others, or published:NAME; any backbone."""
    teacher_key: str = "teacher"
    """Which network of a file of the teacher that holds several: teacher or student of stage one, average of stage two,
    or the name of any part of another program's file."""
    teacher_arch: str | None = None
    """Its architecture, of a file that does not say: resnet56, timm:<name>, ..."""
    teacher_image_size: ImageSize | None = None
    """Side in pixels at which the teacher sees the images, or height and width (None: the file's, else the
    architecture's)."""
    teacher_bn: Literal["running", "batch"] = "running"
    """What the teacher's batch norms use: its running statistics; batch: those of each batch, as published."""
    guide_teacher: tuple[str, ...] = ()
    """The maps to store, say s1 s2 s3 (none: the end of each stage)."""
    trust_checkpoint: bool = False
    """Load files that hold Python objects (as the published ones do), which can run code."""

    def __post_init__(self):
        check_values(self, AT_LEAST_1, "teacher_image_size")
        if self.teacher_image_size is not None:
            object.__setattr__(self, "teacher_image_size", shortest(self.teacher_image_size))

    def check(self) -> None:
        """ValueError unless there is a teacher. A recipe file alone need not name it: the command line may."""
        if not self.teacher:
            raise ValueError(
                "no teacher whose maps to store: give --teacher FILE (or run folder, say runs/resnet56)"
            )


@dataclass(frozen=True)
class Features:
    """The features."""

    output_dir: str = "features"
    """Folder of the features; an interrupted storing that is there goes on."""
    dtype: Literal["float16", "float32"] = "float16"
    """Numbers in the files; float32, as published, takes twice the room."""
    batch_size: int = 200
    """Images per forward pass (published: 200, which matters with --teacher_bn batch)."""

    def __post_init__(self):
        check_values(self, AT_LEAST_1, "batch_size")


@dataclass(frozen=True)
class TeacherMachine(Machine):
    """The machine."""

    precision: Precision = "fp32"
    """Arithmetic of the teacher; auto: bf16 on CUDA, else fp32."""


@dataclass(frozen=True)
class Recipe:
    """Store a teacher's maps of all training images, for finetune --guidance_features.

    These must be the images of the later training.
    """

    ALIASES: ClassVar = {"output": "output_dir", "batch_size_per_gpu": "batch_size"}

    teacher: StoredTeacher = StoredTeacher()
    data: DataSettings = DataSettings()
    features: Features = Features()
    machine: TeacherMachine = TeacherMachine()
