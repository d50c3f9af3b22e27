"""The loop of a training command: its length and what is due when, from the recipe, the batches and the run folder."""

import torch

from multicrop.config.machine import RunSettings
from multicrop.engine.batches import Batches
from multicrop.engine.interrupt import Interrupt
from multicrop.engine.loop import Loop
from multicrop.engine.run import Run


def start_loop(
    settings: RunSettings,
    run_folder: Run,
    interrupt: Interrupt,
    device: torch.device,
    batches: Batches,
    epochs: int,
    start: int,
) -> Loop:
    """From step `start` to the end of `epochs` epochs, or to --max_steps."""
    return Loop(
        interrupt,
        device,
        start=start,
        steps=epochs * batches.steps_per_epoch,
        stop=settings.max_steps,
        per_epoch=batches.steps_per_epoch,
        images=batches.total,
        log_freq=settings.log_freq,
        save_steps=settings.save_steps,
        loss=run_folder.latest("loss"),
        unlogged=(run_folder.unlogged or ()) if start else (),
    )
