"""Every number of the storing of a teacher's maps, with its unit and default."""

from dataclasses import dataclass
from typing import Literal

from .flags import require


@dataclass(frozen=True)
class Recipe:
    """Store a teacher's maps of all training images, for finetune.py --guidance_features."""

    # The teacher.
    teacher: str | None = None
    """File or run folder of the teacher: of finetune.py, published or of timm; any backbone."""
    teacher_arch: str | None = None
    """Its architecture, of a file that does not say: resnet56, timm:<name>, ..."""
    teacher_image_size: int | None = None
    """Side in pixels at which the teacher sees the images (None: the file's, else the architecture's)."""
    teacher_bn: Literal["running", "batch"] = "running"
    """What the teacher's batch norms use: its running statistics; batch: those of each batch, as published."""
    guide_teacher: tuple[str, ...] = ()
    """The maps to store, say s1 s2 s3 (none: the end of each stage)."""
    trust_checkpoint: bool = False
    """Load files that hold Python objects (as the published ones do), which can run code."""

    # The data. None: what the teacher was trained on. They must be those of the later training.
    dataset: str | None = None
    """Its training images; --dataset of finetune.py."""
    datapath: str | None = None
    """Folder of the data set."""
    download: bool = False
    """Fetch the data set where torchvision can."""
    source_size: int | None = None
    """Side in pixels at which image files are stored (None: what the teacher's run was given, else its image size)."""
    stream: bool | None = None
    """Decode image files when they are needed, in worker processes, instead of storing them (None: what would take more
    than half of this machine's memory)."""
    workers: int | None = None
    """Processes that decode streamed images (None: one per processor)."""

    # The features.
    output: str = "features"
    """Folder of the features; an interrupted storing that is there goes on."""
    dtype: Literal["float16", "float32"] = "float16"
    """Numbers in the files; float32, as published, takes twice the room."""
    batch_size: int = 200
    """Images per forward pass (published: 200, which matters with --teacher_bn batch)."""

    # The machine.
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the teacher; auto: bf16 on CUDA, else fp32."""

    def __post_init__(self):
        for name in ("batch_size", "teacher_image_size", "source_size", "workers"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "must be at least 1")

    def check_start(self) -> None:
        """ValueError unless there is a teacher. A recipe file alone need not name it: the command line may."""
        if not self.teacher:
            raise ValueError("no teacher whose maps to store: give --teacher FILE (or run folder, say runs/resnet56)")
