"""Where the arithmetic happens and what a run leaves behind: parts of several recipes."""

from dataclasses import dataclass
from typing import Literal

from .checks import AT_LEAST_1, check_values, require

AutoSwitch = bool | Literal["auto"]
"""true or false, or auto: what follows from the machine."""
Attention = Literal["auto", "torch", "flash", "efficient", "cudnn", "plain"]
Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]


@dataclass(frozen=True)
class Machine:
    """The machine."""

    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Precision = "auto"
    """Arithmetic of the networks; auto: bf16 on CUDA, else fp32. On CUDA tf32 rounds products and convolutions of
    float32 numbers, and nothing else does."""


@dataclass(frozen=True)
class RunSettings(Machine):
    """The run and the machine."""

    compile: AutoSwitch = "auto"
    """torch.compile the networks, the first step of which takes minutes (auto: on CUDA, without --deterministic). Where
    the compiler fails, a line says so and the run goes on without."""
    graph: AutoSwitch = "auto"
    """Compiled networks as CUDA graphs, whose launches cost the CPU next to nothing (auto: in one process, where they
    see at most 128 images at a time). They are tried out in the first step; where that fails, a line says so and the
    run goes on without."""
    attention: Attention = "auto"
    """How attention is computed (auto: on CUDA the backends are timed once, before the first step, on the shapes of the
    networks, and the fastest is taken; not with --deterministic). torch: as torch chooses; flash, efficient, cudnn: by
    this one of its backends where it can; plain: by two matrix products and a softmax."""
    checkpoint_activations: bool = False
    """Activation checkpointing: the blocks of the backbone keep their inputs only, and compute the rest again for the
    gradients. Less memory, more time, the same numbers."""
    deterministic: bool = False
    """The same numbers on every run on CUDA, too, so that a resumed run is bit-equal there; slower."""
    output_dir: str = "runs"
    """Run folder; a run that is there is resumed."""
    max_steps: int | None = None
    """Stop after this global step, save, and leave every schedule as it is."""
    save_steps: int = 1000
    """Most optimizer steps between saves of the newest checkpoint (it is saved every epoch too)."""
    log_freq: int = 10
    """Steps between rows of metrics.jsonl."""
    report: bool = False
    """Keep report.html in the run folder up to date, at k-NN probes and accuracies, within 1 % of the run's time."""
    log: tuple[Literal["wandb", "mlflow", "trackio", "csv"], ...] = ()
    """Where else its rows go, as they do to TensorBoard: a record on this machine of each library named (offline for
    wandb unless WANDB_MODE says otherwise), which must be installed; csv: metrics.csv when the run closes."""

    def __post_init__(self):
        check_values(self, AT_LEAST_1, "max_steps", "save_steps", "log_freq")
        both = self.compile is True and self.checkpoint_activations
        words = "not with --compile, which chooses itself what is computed again"
        require(not both, "checkpoint_activations", True, words)
        words = "is for networks that are compiled, and these are not"
        require(not (self.graph is True and self.compile_networks is False), "graph", True, words)

    @property
    def compile_networks(self) -> AutoSwitch:
        """`compile`, as far as it is about the networks: those that recompute activations run as they are written."""
        return False if self.checkpoint_activations else self.compile
