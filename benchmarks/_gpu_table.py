"""The tables of gpu_report: one for each part, a line for each row, and what could not be measured with its reason."""

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks._gpu_kernels import BACKENDS

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], Any]]  # its title, and what a row has there
TITLES = {
    "tests": "Tests that need a GPU",
    "step": "A pretraining step",
    "sdpa": "Attention, milliseconds forward and backward",
    "parity": "Each network against itself on the CPU, relative differences",
    "nccl": "Processes",
    "resume": "Stopped and resumed against undisturbed, --deterministic",
    "crops": "Crops on the device against an image-by-image pipeline",
    "recipe": "The published CIFAR-10 recipe",
}


def _value(name: str, scale: float = 1) -> Callable[[Row], Any]:
    return lambda row: row[name] * scale if scale != 1 and name in row else row.get(name)


def _backend(name: str) -> Callable[[Row], Any]:
    return lambda row: row.get("ms", {}).get(name, "")


def _word(name: str, good: str, bad: str) -> Callable[[Row], str]:
    words = {True: good, False: f"**{bad}**"}
    return lambda row: words.get(row[name], "") if name in row else ""


COLUMNS: dict[str, list[Column]] = {
    "tests": [
        ("passed", _value("passed")),
        ("skipped", _value("skipped")),
        ("failed", lambda row: "; ".join(row.get("failed_tests", []))),
    ],
    "step": [
        ("TFLOP/s", lambda row: row.get("tflop_per_second", row.get("gflop_per_second", 0) / 1000)),
        ("ms", _value("whole_ms_per_step")),
        ("images/s", _value("whole_images_per_second")),
        ("of the matrix product's rate, %", _value("whole_share_of_ceiling", 100)),
        ("peak MB", _value("peak_memory_mb")),
    ],
    "sdpa": [
        ("fastest", _value("fastest")),
        *((name, _backend(name)) for name in ("plain", "torch's choice", *BACKENDS)),
    ],
    "parity": [
        (f"{precision.replace('_cpu', ' on the CPU')} {what}", _value(f"{precision}_{what}"))
        for precision in ("fp32", "bf16", "bf16_cpu")
        for what in ("features", "gradients")
    ]
    + [("within the limits", lambda row: _within(row))],
    "nccl": [
        ("mean of the ranks", _word("mean_is_right", "right", "wrong")),
        ("all-reduce ms", _value("all_reduce_ms")),
        ("GB/s", _value("all_reduce_gb_per_second")),
        ("ms per step", _value("ms_per_step")),
        ("images/s of all", _value("images_per_second_of_all")),
    ],
    "resume": [
        ("bit-equal", _word("equal", "yes", "no")),
        ("values compared", _value("compared")),
        ("the first that differ", lambda row: ", ".join(row.get("differ", []))),
    ],
    "crops": [
        ("ours, ms an image", _value("ours_ms_per_image")),
        ("image by image, ms", _value("per_image_pipeline_ms_per_image")),
        ("times cheaper", _value("times_cheaper")),
    ],
    "recipe": [
        ("status", _value("status")),
        ("epochs", _value("epoch")),
        ("steps", lambda row: f"{row['step']} of {row['steps']}" if "steps" in row else ""),
        ("images/s", _value("images_per_second")),
        ("seconds, all calls", _value("seconds_of_all_calls")),
        ("k-NN %", _value("knn_top1")),
        ("test top-1 %", _value("test_top1")),
    ],
}


def _within(row: Row) -> str:
    bad = [name for name in ("fp32", "bf16") if row.get(f"{name}_ok") is False]
    return f"**not in {', '.join(bad)}**" if bad else "yes"


def markdown(content: dict) -> str:
    """OUT.md."""
    about = ", ".join(f"{name} {value}" for name, value in content["machine"].items())
    lines = ["# GPU report", "", f"{about}. How to read it: docs/gpu.md.", ""]
    if content["rehearsal"]:
        lines += ["**A rehearsal at a tiny size: these numbers mean nothing.**", ""]
    for part, title in TITLES.items():
        lines += [f"## {title}", "", *_table(part, content["parts"].get(part, {})), ""]
    return "\n".join(lines)


def _table(part: str, rows: dict[str, Row]) -> Iterator[str]:
    if not rows:
        yield "Unmeasured."
        return
    columns = COLUMNS[part]
    yield _line(["", *(title for title, _ in columns)])
    yield "|" + "---|" * (len(columns) + 1)
    for name, row in rows.items():
        problem = ("failed" in row and f"**failed**: {row['failed']}") or row.get("unmeasured")
        cells = (
            [problem] + [""] * (len(columns) - 1) if problem else [get(row) for _, get in columns]
        )
        yield _line([name, *map(_shown, cells)])


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
