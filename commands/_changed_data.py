"""Resume a run of stage one, also when images were added to its set or taken away."""

from multicrop.commands._student import TrainState
from multicrop.engine import ranks
from multicrop.engine.metadata import Metadata
from multicrop.engine.run import Run

ABOUT_IMAGES = (
    "images",
    "pixels",
    "all_pixels",
    "files",
    "labels",
    "steps_per_epoch",
)  # of a run's identity


def resume(
    train_state: TrainState, run: Run, stored: Metadata, now: Metadata, changed_data: bool
) -> tuple[int, Metadata]:
    """Load the run's newest state; the step to go on from, and the metadata.

    stored, now: what its checkpoint says, and what the images are now. changed_data: whether they may differ; then the
    run begins again at step 0 with what it has learned. ValueError where it cannot go on.
    """
    if changed_data and _differ(stored, now):
        now = _restart(train_state, run, stored, now)
    try:
        return run.resume(train_state, now.identity), now
    except ValueError as error:
        if not _differ(stored, now):
            raise
        raise ValueError(
            f"{error}; or --resume_changed_data, to begin again on these images with what it has learned"
        ) from None


def _differ(stored: Metadata, now: Metadata) -> bool:
    before, after = stored.identity, now.identity
    known = [name for name in ABOUT_IMAGES if name in before and name in after]
    return any(before[name] != after[name] for name in known)


def _restart(train_state: TrainState, run: Run, stored: Metadata, metadata: Metadata) -> Metadata:
    """Make a run begin again on changed images with what it has learned; its files so far stay in a sub-folder."""
    identity = metadata.identity
    run.resume(train_state, {name: identity[name] for name in identity if name not in ABOUT_IMAGES})
    kept = run.set_aside()
    metadata = metadata.at(0, 0.0).descending(str(kept), stored)
    before, after = stored.identity.get("images"), metadata.identity.get("images")
    ranks.log(
        f"the images changed ({before} before, {after} now): the order and all schedules begin again at step 0, with "
        f"the weights of step {stored.step}; the run so far stays in {kept}"
    )
    run.save(metadata, train_state.state())
    return metadata
