"""Which backend computes each attention of a run's networks, by --attention: measured before they are compiled."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from multicrop.commands._classifier import TrainState as Finetuned
from multicrop.commands._finetune_data import FinetuneData, images_per_part
from multicrop.commands._student import TrainState as Pretrained
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.machine import RunSettings
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.config.sizes import ImageSize, half, height_width
from multicrop.engine import compiled, graphs, ranks, rows, starts, stopwatch
from multicrop.engine.files import atomic_write
from multicrop.engine.run import ATTENTION, Run
from multicrop.models import _attention
from multicrop.models._attention import Shape
from multicrop.probes.features import evaluation_mode

MARGIN = 0.05  # of its time that torch's own choice must lose, or it is kept: less may be noise
LIMIT = 0.05  # what a backend may differ from plain attention, as a share: in bf16 they round in other places
FEW = 8  # images to compare them on
Inputs = tuple[Tensor, Tensor, Tensor]  # queries, keys and values
own_choices = _attention.own_choices


class Pass(NamedTuple):
    """A call of a network in a step."""

    network: nn.Module
    images: tuple[Tensor, ...]
    learns: bool = False  # whether with gradients
    evaluates: bool = False  # whether in evaluation mode, else in its own


def choose_for_pretraining(
    recipe: Pretraining,
    train_state: Pretrained,
    channels: int,
    run_folder: Run,
    start: int,
    dtype: torch.dtype | None,
) -> None:
    """channels: of the images; else as in `choose`."""
    size, images = recipe.backbone.image_size, recipe.optimisation.batch_size_per_gpu

    def passes() -> list[Pass]:
        def crops(count: int, size: ImageSize) -> Tensor:
            sides = height_width(size)
            return torch.zeros(count, images, channels, *sides, device=train_state.device)

        views = crops(2, size), crops(recipe.crops.local_crops_number, half(size))
        return [
            Pass(train_state.student, views, learns=True),
            Pass(train_state.teacher, views[:1]),
            Pass(train_state.teacher, views[:1], evaluates=True),
        ]

    choose(recipe.run, passes, run_folder, start, train_state.device, dtype)


def choose_for_finetuning(
    recipe: Finetuning,
    train_state: Finetuned,
    data: FinetuneData,
    run_folder: Run,
    start: int,
    dtype: torch.dtype | None,
) -> None:
    """As in `choose`."""
    model, teacher = train_state.model, train_state.teacher

    def passes() -> list[Pass]:
        sides = height_width(data.backbone["image_size"])
        count, channels = images_per_part(recipe, ranks.world_size()), data.backbone["in_channels"]
        images = torch.zeros(count, channels, *sides, device=train_state.device)
        learns = any(parameter.requires_grad for parameter in model.backbone.parameters())
        own = [Pass(model, (images,), learns), Pass(model, (images,), evaluates=True)]
        return [*own, Pass(teacher, (images,))] if teacher else own

    choose(recipe.run, passes, run_folder, start, train_state.device, dtype)


def choose(
    settings: RunSettings,
    passes: Callable[[], list[Pass]],
    run_folder: Run,
    start: int,
    device: torch.device,
    dtype: torch.dtype | None,
) -> None:
    """Fill in the process's choices, on every rank, and say them; a run that goes on takes those that it had.

    passes: a step's. start: its first. ValueError where a backend is stated that takes none of their attentions.
    """
    setting = settings.attention
    if setting == "torch" or (setting == "auto" and not measures(device)):
        return
    if device.type not in ("cuda", "cpu") and setting in _attention.FUSED:
        raise ValueError(f"--attention {setting} is for CUDA and CPUs, not {device.type}")
    path = run_folder.folder / ATTENTION
    if start and setting == "auto" and not ranks.broadcast_object(path.exists):
        return ranks.log("attention: torch's own choice, as before (measured where a run begins)")
    table = ranks.broadcast_object(lambda: _stored(path, setting)) if start else []
    resumed = bool(table)
    if not table:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            asked = _asked(passes(), device, dtype)
            table = ranks.broadcast_object(
                lambda: [
                    _row(shape, asked[shape], start, settings, device, dtype) for shape in asked
                ]
            )
    if setting != "auto" and all(row["choice"] != setting for row in table):
        raise ValueError(
            f"--attention {setting}: on this {device.type} device it computes no attention of these networks: "
            "leave it out"
        )
    if ranks.rank() == 0 and not resumed:
        with atomic_write(path) as file:
            file.write("".join(f"{rows.line_of(row)}\n" for row in table).encode())
    for row in table:
        ranks.log(_in_words(row) + (", as before" if resumed else ""))
        if row["choice"] != "torch":
            _attention.choices[Shape(**row["shape"])] = row["choice"]


def measures(device: torch.device) -> bool:
    """Whether --attention auto does: elsewhere, and with --deterministic, everything is as without it."""
    return device.type == "cuda" and not torch.are_deterministic_algorithms_enabled()


def _stored(path: Path, setting: str) -> list[dict[str, Any]]:
    """The rows of this run; none where they are not all there, or are of another setting, device or torch."""
    table, damaged = rows.parse(path)
    if damaged:
        ranks.log(f"{path} is damaged: attention is measured again")
        return []
    now = {"setting": setting, **_machine()}
    same = all(row.get(name) == value for row in table for name, value in now.items())
    return table if same else []


def _machine() -> dict[str, Any]:
    machine = starts.machine()
    return {name: machine[name] for name in ("device", "torch")}


def _asked(
    passes: list[Pass], device: torch.device, dtype: torch.dtype | None
) -> dict[Shape, Inputs]:
    """The attentions of these passes without their values, of each shape that of most images."""
    asked: dict[Shape, Inputs] = {}
    for network, images, learns, evaluates in passes:
        mode = evaluation_mode(network) if evaluates else nullcontext()
        buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
        cast = torch.autocast(device.type, dtype, dtype is not None, cache_enabled=False)
        with _attention.recording() as record, torch.no_grad(), cast, mode:
            network._call_impl(*images)  # as it is written: a call may compile it
            for buffer, value in buffers:
                buffer.copy_(value)
        for inputs in record:
            shape = _attention.shape_of(inputs[0], inputs[1], learns)
            if shape not in asked or len(inputs[0]) > len(asked[shape][0]):
                asked[shape] = inputs
    return asked


def _row(
    shape: Shape,
    inputs: Inputs,
    start: int,
    settings: RunSettings,
    device: torch.device,
    dtype: torch.dtype | None,
) -> dict[str, Any]:
    """A line of the run's file: a shape, the milliseconds of each backend (None: left out), and the choice."""
    setting = settings.attention
    names = ("torch", "plain", *_attention.FUSED) if setting == "auto" else (setting,)
    compiles = compiled.is_wanted(settings.compile_networks, device)
    times = {}
    for name in names:
        cast = torch.autocast(device.type, dtype, dtype is not None)
        with cast, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says in some why a backend refuses
            times[name] = _milliseconds(name, inputs, shape.learns, device, compiles)
    row = {"step": start, "setting": setting, **_machine(), "shape": shape._asdict()}
    return {**row, "images": len(inputs[0]), "ms": times, "choice": fastest(times)}


def _milliseconds(
    name: str, inputs: Inputs, learns: bool, device: torch.device, compiles: bool
) -> float | None:
    """On random values; None where the backend refuses them, lacks the memory or computes something else."""
    function: Callable = partial(_attention.attend_by, name, alone=True)
    if name == "plain":  # the others are one operation, compiled or not
        function = compiled.Compiler(compiles, "plain attentions").function(function)
    try:
        values = [
            torch.empty_strided(each.shape, each.stride(), dtype=each.dtype, device=device)
            .normal_()
            .requires_grad_(learns)
            for each in inputs
        ]
        milliseconds = round(stopwatch.milliseconds(function, values), 4)
        return milliseconds if name not in _attention.FUSED or _agrees(name, values) else None
    except RuntimeError:
        return None


def _agrees(backend: str, inputs: list[Tensor]) -> bool:
    """Whether outputs and gradients are those of plain attention; a line says where they are not."""
    q, k, v = (each[:FEW].detach().requires_grad_(each.requires_grad) for each in inputs)
    results = []
    for name in (backend, "plain"):
        output = _attention.attend_by(name, q, k, v, alone=True)
        results.append([output.detach()])
        if output.requires_grad:
            results[-1] += torch.autograd.grad(output.square().sum(), (q, k, v))
    difference = graphs.difference(*results)
    if difference <= LIMIT:
        return True
    ranks.log(
        f"attention by {backend} differs by {100 * difference:.2g} % from a plain one: left out"
    )
    return False


def fastest(times: dict[str, float | None]) -> str:
    """The backend of the least time; "torch", its own choice, where that is not longer by MARGIN or all refuse."""
    taken = {name: time for name, time in times.items() if time is not None}
    if not taken:
        return "torch"
    best = min(taken, key=lambda name: taken[name])
    return "torch" if taken[best] > (1 - MARGIN) * taken.get("torch", float("inf")) else best


def _in_words(row: dict[str, Any]) -> str:
    shape = Shape(**row["shape"])
    times = [
        f"{name} left out" if time is None else f"{name} {time:g} ms"
        for name, time in row["ms"].items()
    ]
    tokens = f"{shape.queries} x {shape.keys} tokens, {shape.heads} heads of {shape.width}"
    passes = "forward and backward" if shape.learns else "forward alone"
    choice = "torch's own choice" if row["choice"] == "torch" else row["choice"]
    return f"attention, {tokens}, {passes}: {choice} ({', '.join(times)})"
