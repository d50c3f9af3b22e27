"""What the steps of each family ask of MPS, and what of it torch has no kernel for there.

    python tests/operations.py      # lines for docs/gpu.md

Steps run on torch's meta device, whose tensors have no values, so that the code takes the paths of MPS. Which
operations have a kernel there is read from the table that torch's wheel has of its operators.
"""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torchgen
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

TESTS = Path(__file__).resolve().parent
TABLE = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
META = torch.device("meta")
FAMILIES = ("vit", "swin", "cait", "cct", "resnet", "manifold", "grassmann", "stage two")


class Noted(TorchDispatchMode):
    """The operations on tensors of the meta device, and which of them have float64 there."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.double: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        there = [
            leaf
            for leaf in tree_leaves((args, kwargs, out))
            if isinstance(leaf, torch.Tensor) and leaf.device == META
        ]
        if there:
            self.names.add(str(func).removeprefix("aten."))
        if any(leaf.dtype == torch.float64 for leaf in there):
            self.double.add(str(func))
        return out


def noted(family: str) -> Noted:
    """Of one step of stage one, or of "stage two"."""
    import pretended_cuda
    import test_device
    from conftest import recipe

    from multicrop.augment import device
    from multicrop.config.pretrain import Recipe

    flags = {**test_device.ONE, "accumulate": 1, **pretended_cuda.STAGE_ONE.get(family, {})}
    with (
        mock.patch("torch.autocast", lambda *_, **__: nullcontext()),  # which knows no such device
        mock.patch.object(device, "has_float64", lambda _: False),
        mock.patch("torch.optim.adam._device_dtype_check_for_fused", lambda *_: None),  # MPS passes
    ):
        if family == "stage two":
            step = test_device.whole_step("two", META)
        else:
            step = test_device.whole_step("one", META, recipe(Recipe, **flags))
        step(0)  # constants are made and sent
        with Noted() as operations:
            step(1)
    return operations


def without_kernel(names: set[str]) -> list[str]:
    """Those that torch's table gives neither a kernel for MPS nor one that is made of other operations."""
    table = {}
    for entry in yaml.safe_load(TABLE.read_text()):
        table[with_overload(entry["func"].split("(")[0])] = entry
    missing = []
    for name in sorted(names):
        entry = table[name]
        if "structured_delegate" in entry:
            entry = table[with_overload(entry["structured_delegate"])]
        keys = ", ".join(entry.get("dispatch", {"Composite": ""}))
        if "MPS" not in keys and "Composite" not in keys:
            missing.append(name)
    return missing


def with_overload(name: str) -> str:
    return name if "." in name else f"{name}.default"


def main() -> None:
    sys.path[:0] = [str(TESTS.parent), str(TESTS)]
    names = {family: noted(family).names for family in FAMILIES}
    common = set.intersection(*(own for family, own in names.items() if family != "stage two"))
    every = set.union(*names.values())
    print(
        f"{len(every)} operations, torch {torch.__version__}; without a kernel: {without_kernel(every)}"
    )
    print(f"All of stage one: {in_words(common)}.")
    for family, own in names.items():
        print(f"Beside these {family}: {in_words(own - common)}.")


def in_words(names: set[str]) -> str:
    return ", ".join(sorted(name.removesuffix(".default") for name in names))


if __name__ == "__main__":
    main()
