"""What is committed of the recorded numbers is what the full set holds: the same files, or parts of them."""

import json

import pytest
import torch
from conftest import GOLDEN
from locality_guidance import recorded, training_pieces
from test_manifold import FORK

NUMBERS = [path for path in sorted(GOLDEN.glob("*/*")) if path.suffix in (".npz", ".safetensors")]
GATHERED = (
    "train_steps",
    "mixing",
    "full_size_",
)  # here from several files of the full set, or from one for several
STEPS = ("adamw", "sgd", "lars")
OWN = (
    "_best",
    "original/",
)  # the first column of a ranking; what has a file of its own in the full set


def within(part, whole) -> bool:
    """Whether it is the whole tensor, or its first rows, or the same text."""
    if not isinstance(part, torch.Tensor):
        return part == whole
    return torch.equal(part, whole if part.shape == whole.shape else whole[: len(part)])


@pytest.mark.parametrize("path", NUMBERS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_files_of_the_full_sets_names(shared_golden, path):
    twin = next((shared_golden / path.parent.name).glob(f"{path.stem}.*"), None)
    if twin is None:
        assert path.stem.startswith(GATHERED) or path.match("locality_guidance/schedules.npz")
    elif twin.read_bytes() != path.read_bytes():
        full = recorded(twin)
        own = {
            name: value
            for name, value in recorded(path).items()
            if not any(word in name for word in OWN)
        }
        assert own and [name for name, value in own.items() if not within(value, full[name])] == []


def test_training_pieces(shared_golden):
    own, full = training_pieces(GOLDEN), training_pieces(shared_golden)
    assert [name for name, value in own.items() if not within(value, full[name])] == []


def test_train_steps(shared_golden):
    full = {
        name: recorded(shared_golden / "two_stage_ssl" / f"train_step_{name}.safetensors")
        for name in STEPS
    }
    for name, value in recorded(GOLDEN / "two_stage_ssl" / "train_steps.safetensors").items():
        optimizer, _, rest = name.partition(".")
        found = full[optimizer][rest] if optimizer in full else full["adamw"][name]
        assert within(value, found), name


def test_full_size_networks(shared_golden):
    full = recorded(shared_golden / "locality_guidance" / "full_size.safetensors")
    for file in (GOLDEN / "locality_guidance").glob("full_size_*.npz"):
        for name, value in recorded(file).items():
            family, _, what = name.partition("/")
            if what != "keys":
                network = family.rstrip("0123456789_")
                twins = [
                    full[key]
                    for key in full
                    if key.startswith(network) and key.endswith(f"/{what}")
                ]
                assert any(torch.equal(value, twin) for twin in twins), name


def test_names_counts_and_logits_of_compact_transformers(shared_golden):
    folder, own = shared_golden / "compact_transformers", GOLDEN / "compact_transformers"
    counts, keys = (
        json.loads((folder / name).read_text())
        for name in ("param_counts.json", "state_dict_keys.json")
    )
    assert json.loads((own / "param_counts.json").read_text()).items() <= counts.items()
    assert json.loads((own / "state_dict_keys.json").read_text()).items() <= keys.items()
    logits = recorded(folder / "registered_logits.safetensors")
    assert FORK["params"]["f1"].items() <= counts["fork_bd55c27"].items()
    assert FORK["params"]["f2"].items() <= counts["fork_31975a0"].items()
    assert FORK["keys"].items() <= keys.items()
    assert all(
        torch.equal(torch.tensor(values), logits[name]) for name, values in FORK["logits"].items()
    )
