"""The course of a run's steps, as both stages have it: what is due at a step's end, and when to stop."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from . import ranks
from .guard import Guard
from .interrupt import Interrupt
from .progress import Progress


class Now(NamedTuple):
    """Where a run stands at a step's end, and what is due there."""

    done: int  # steps
    epoch: int  # whole epochs done
    epochs: float  # the same with the fraction of the one begun
    ended: bool  # an epoch ends here
    final: bool  # so does the loop
    logs: bool
    saves: bool

    def every(self, epochs: int) -> bool:
        """Whether something is due that is due every so many epochs (0: never) and after the last step."""
        return epochs > 0 and (self.final or (self.ended and self.epoch % epochs == 0))


class Loop:
    """`for step in loop.steps():` one optimizer step, then `now = loop.end(loss, norm)`.

    `start` is the first step, `steps` all of the recipe's, `stop` the one before which to stop (None: the last),
    `images` the global batch; a row is due every `log_freq` steps, the newest checkpoint at least every `save_steps`.
    `loss` is what a resumed run logged last.
    """

    def __init__(
        self, interrupt: Interrupt, device: torch.device, *, start: int, steps: int, stop: int | None, per_epoch: int,
        images: int, log_freq: int, save_steps: int, loss: float | None = None,
    ):  # fmt: skip
        self.interrupt, self.done, self.per_epoch = interrupt, start, per_epoch
        self.whole, self.last = steps, min(steps, stop or steps)
        self.log_freq, self.save_steps = log_freq, save_steps
        self.looks = (
            1 if device.type == "cpu" else log_freq
        )  # reading a GPU's numbers waits for it, so seldom
        self.progress, self.guard = Progress(self.last, start, images), Guard()
        self.stopped, self.loss = (
            False,
            loss,
        )  # loss: mean over ranks and over the steps since the last row, nats

    def steps(self) -> Iterator[int]:
        """Each step until the last, or until somebody asked for a stop: before the first one, or during one."""
        if self.done >= self.last:
            ranks.say(
                f"nothing left to do: the run folder is at step {self.done} of {self.last} already"
            )
        self.stopped = not ranks.everywhere(not self.interrupt.asked)
        while self.done < self.last and not self.stopped:
            yield self.done
        self.progress.close()

    def end(self, loss: Tensor, norm: Tensor | None = None) -> Now:
        """Close a step that had this loss and gradient norm. FloatingPointError where they are not finite."""
        self.guard.add(self.done, loss, norm)
        self.progress.step()
        self.done += 1
        done, final, ended = self.done, self.done == self.last, self.done % self.per_epoch == 0
        logs, saves = (
            final or done % self.log_freq == 0,
            final or ended or done % self.save_steps == 0,
        )
        if logs or saves or done % self.looks == 0:
            self.stopped, self.loss = self.guard.check(self.interrupt.asked, row=logs)
        epochs = done / self.per_epoch
        return Now(done, done // self.per_epoch, epochs, ended, final, logs, saves or self.stopped)

    def speed(self) -> dict[str, float]:
        """Speed since the last call, for a row and the progress bar."""
        speed = self.progress.speed()
        self.progress.show(loss=self.loss, **speed)
        return speed

    def result(self) -> dict:
        """What the script prints of the loop. status: finished; stopped, at --max_steps; interrupted, by a signal."""
        status = (
            "finished"
            if self.done >= self.whole
            else "stopped"
            if self.done >= self.last
            else "interrupted"
        )
        if status == "interrupted":
            ranks.say(f"stopped by a signal after step {self.done}: the same command resumes it")
        if status == "stopped":
            ranks.say(
                f"stopped at --max_steps {self.done} of {self.whole} steps: without it the same command goes on"
            )
        where = {"step": self.done, "steps": self.whole, "epoch": self.done / self.per_epoch}
        return {"status": status, **where, "loss": self.loss, **self.progress.total()}
