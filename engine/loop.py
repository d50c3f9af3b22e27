"""The course of a run's steps, as both stages have it: what is due at a step's end, and when to stop."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import ranks, watch
from .guard import Guard
from .interrupt import Interrupt
from .progress import Progress


class LoopStatus(NamedTuple):
    """Where a run stands at a step's end, and what is due there."""

    step: int  # steps done
    epoch: int  # whole epochs done
    epochs: float  # the same with the fraction of the one begun
    ended: bool  # an epoch ends here
    final: bool  # so does the loop
    whole: bool  # so does the recipe
    logs: bool
    saves: bool

    def every(self, epochs: int) -> bool:
        """Whether something is due that is due every so many epochs (0: never) and after the last step."""
        return epochs > 0 and (self.final or (self.ended and self.epoch % epochs == 0))

    def keeps(self, epochs: int) -> bool:
        """Whether a checkpoint is kept for good: every so many epochs (0: never) and at the end of the whole recipe."""
        return self.ended and epochs > 0 and (self.whole or self.epoch % epochs == 0)


class Loop:
    """`for step in loop.steps():` one optimizer step, then `status = loop.end(loss, norm)`.

    `start` is the first step, `steps` all of the recipe's, `stop` the one before which to stop (None: the last),
    `images` the global batch; a row is due every `log_freq` steps, the newest checkpoint at least every `save_steps`.
    `loss` is what a resumed run logged last, `unlogged` the losses of its steps since then.
    """

    def __init__(
        self,
        interrupt: Interrupt,
        device: torch.device,
        *,
        start: int,
        steps: int,
        stop: int | None,
        per_epoch: int,
        images: int,
        log_freq: int,
        save_steps: int,
        loss: float | None = None,
        unlogged: Sequence[float] = (),
    ):
        self.interrupt, self.done, self.per_epoch = interrupt, start, per_epoch
        self.total, self.last = steps, min(steps, stop or steps)
        self.log_freq, self.save_steps = log_freq, save_steps
        # Reading a GPU's numbers waits for it, so seldom.
        self.check_freq = 1 if device.type == "cpu" else log_freq
        self.progress, self.guard = Progress(self.last, start, images), Guard(unlogged)
        self.stopped = False
        self.loss = loss  # mean over ranks and over the steps since the last row, nats; None before there is one

    def steps(self) -> Iterator[int]:
        """Each step until the last, or until somebody asked for a stop: before the first one, or during one."""
        if self.done >= self.last:
            ranks.log(
                f"nothing left to do: the run folder is at step {self.done} of {self.last} already"
            )
        self.stopped = not ranks.all_true(not self.interrupt.asked)
        while self.done < self.last and not self.stopped:
            watch.begin_step(self.done + 1)
            yield self.done
        self.progress.close()

    def end(self, loss: Tensor, norm: Tensor | None = None) -> LoopStatus:
        """Close a step that had this loss and gradient norm. FloatingPointError where they are not finite."""
        self.guard.add(self.done, loss, norm)
        self.progress.step()
        self.done += 1
        final = self.done == self.last
        ended = self.done % self.per_epoch == 0
        logs = final or self.done % self.log_freq == 0
        saves = final or ended or self.done % self.save_steps == 0
        if logs or saves or self.done % self.check_freq == 0:
            self.stopped, self.loss = self.guard.check(self.interrupt.asked, row=logs)
        watch.end_step()
        return LoopStatus(
            step=self.done,
            epoch=self.done // self.per_epoch,
            epochs=self.done / self.per_epoch,
            ended=ended,
            final=final,
            logs=logs,
            saves=saves or self.stopped,
            whole=self.done == self.total,
        )

    @property
    def mean_loss(self) -> float:
        """`loss` at the end of a step that logs, saves or ends an epoch, where there is one."""
        assert self.loss is not None
        return self.loss

    @property
    def unlogged(self) -> list[float]:
        """The losses of the steps since the last row, for a checkpoint."""
        return self.guard.unlogged

    def speed(self) -> dict[str, float]:
        """Speed since the last call, for a row and the progress bar."""
        speed = self.progress.speed()
        self.progress.show(loss=self.loss, **speed)
        return speed

    def result(self) -> dict:
        """What the command prints of the loop. status: finished; stopped, at --max_steps; interrupted, by a signal."""
        status = "interrupted"
        if self.done >= self.total:
            status = "finished"
        elif self.done >= self.last:
            status = "stopped"
            ranks.log(
                f"stopped at --max_steps {self.done} of {self.total} steps: without it the same command goes on"
            )
        else:
            ranks.log(f"stopped by a signal after step {self.done}: the same command resumes it")
        return {
            "status": status,
            "step": self.done,
            "steps": self.total,
            "epoch": self.done / self.per_epoch,
            "loss": self.loss,
            **self.progress.total(),
        }
