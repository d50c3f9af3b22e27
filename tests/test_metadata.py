"""engine/metadata.py: one schema of checkpoints, and the files from before it."""

import pytest
import torch

from multicrop.engine import checkpoint
from multicrop.engine.metadata import Checkpoint, Metadata

METADATA = Metadata(
    "finetune",
    7,
    1.5,
    {"lr": 0.1},
    {"arch": "vit"},
    {"classes": ["a"]},
    {"images": 3, "teacher": "abc"},
)


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    state = {"model": {"w": torch.arange(3.0)}, "best": {"epoch": 1}}
    checkpoint.save(Checkpoint(METADATA, state), tmp_path / "x.pt")
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    assert list(content) == ["metadata", "model", "best"]
    stored = checkpoint.load(tmp_path / "x.pt")
    assert stored.metadata == METADATA and torch.equal(
        stored.state["model"]["w"], state["model"]["w"]
    )


def test_names_of_another_version_are_left_out_and_missing_ones_have_defaults():
    values = {"kind": "ssl", "step": 2, "a later name": 1}
    assert Metadata.from_dict(values) == Metadata("ssl", 2)


def flat(kind: str, **more) -> dict:
    """As files were before: facts and states side by side."""
    return {
        "kind": kind, "step": 4, "epoch": 2.0, "recipe": {"lr": 0.1}, "backbone": {"arch": "vit"}, "data": {},
        "global_batch": 8, "images": 24, "pixels": "aa", **more,
    }  # fmt: skip


def test_a_flat_file_of_stage_one_has_a_network_called_teacher():
    content = flat("ssl", student={"a": 1}, teacher={"a": 2}, objective={}, optimizer={})
    stored = Checkpoint.from_dict(content)
    assert list(stored.state) == ["student", "teacher", "objective", "optimizer"]
    assert stored.metadata.identity == {"global_batch": 8, "images": 24, "pixels": "aa"}
    assert (stored.metadata.step, stored.metadata.recipe) == (4, {"lr": 0.1})


def test_flat_files_are_read_from_the_disk_without_running_code(tmp_path):
    for content in (
        flat("ssl", student={"w": torch.ones(2)}, teacher={"w": torch.zeros(2)}),
        flat("finetune", model={"w": torch.ones(2)}, teacher="0f", size="32 px"),
    ):
        torch.save(content, tmp_path / "x.pt")
        stored = checkpoint.load(tmp_path / "x.pt")
        assert (stored.metadata.kind, stored.metadata.epoch) == (content["kind"], 2.0)
        again = Checkpoint.from_dict(stored.to_dict())
        assert again.metadata == stored.metadata and list(again.state) == list(stored.state)


def test_a_flat_file_of_stage_two_has_a_hash_called_teacher():
    stored = Checkpoint.from_dict(flat("finetune", model={"a": 1}, teacher="0f", size="32 px"))
    assert list(stored.state) == ["model"]
    assert (stored.metadata.identity["teacher"], stored.metadata.identity["size"]) == (
        "0f",
        "32 px",
    )


@pytest.mark.parametrize(
    "content", [{"a": 1}, [1], {"metadata": {"step": 1}}, {"metadata": "notes", "kind": "ssl"}]
)
def test_what_is_not_ours_is_refused(content):
    with pytest.raises(ValueError, match="not a multicrop checkpoint"):
        Checkpoint.from_dict(content)
