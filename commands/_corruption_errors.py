"""What is measured under corruptions, its means, and its ratio to another network's (Hendrycks and Dietterich 2019)."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from multicrop.commands._measurements import Numbers
from multicrop.registry import source

CALIBRATION = ("ece", "nll", "brier")
MEASURES = ("error", *CALIBRATION, *(f"calibrated_{name}" for name in CALIBRATION))
COMPARED = ("dataset", "images", "source", "seed", "severities")  # with a reference
FILES = {"made": "robustness.json", "published": "robustness_published.json"}


def rows_of(
    cells: dict[str, dict[int, Numbers]], severities: Iterable[int]
) -> dict[str, dict[str, Any]]:
    """For each corruption a list of every measure over the severities, and its means as mean_error, ..."""
    severities = list(severities)
    rows: dict[str, dict[str, Any]] = {}
    for name, numbers in cells.items():
        row: dict[str, Any] = {}
        for measure in measures_of(numbers[severities[0]]):
            row[measure] = [numbers[severity][measure] for severity in severities]
            row[f"mean_{measure}"] = round(fmean(row[measure]), 4)
        rows[name] = row
    return rows


def means_of(rows: dict[str, dict[str, Any]]) -> Numbers:
    """The means over corruptions of their means over severities."""
    means = {}
    for measure in measures_of(next(iter(rows.values()))):
        means[measure] = round(fmean(row[f"mean_{measure}"] for row in rows.values()), 4)
    return means


def measures_of(numbers: Mapping[str, Any]) -> list[str]:
    """Those that were measured: calibrated ones where the checkpoint has a temperature."""
    return [measure for measure in MEASURES if measure in numbers]


class Reference:
    """A result whose errors others are divided by."""

    def __init__(self, path: str | Path, name: str):
        """The file, or the folder that holds it as `name`. FileNotFoundError or ValueError in one line."""
        self.path = Path(path)
        if self.path.is_dir():
            self.path = self.path / name
        if not self.path.is_file():
            raise FileNotFoundError(
                f"--reference {path}: there is no {self.path.name}, which multicrop robustness writes"
            )
        try:
            self.result = json.loads(self.path.read_text())
            self.rows = self.result["corruptions"]
            self.severities = self.result["severities"]
            self.clean = self.result["clean"]["error"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"--reference {self.path} is no result of robustness") from None

    def check(self, names: Iterable[str], expected: dict[str, Any]) -> None:
        """ValueError unless it was measured under all of these, on the same images, and has errors to divide by.

        expected: severities, dataset, images, ... as the result of this command will have them.
        """
        for key in COMPARED:
            own, other = expected.get(key), self.result.get(key)
            if key == "dataset" and source(str(own)) == source(str(other)):
                continue  # by another of its names
            if own != other:
                raise ValueError(f"--reference {self.path} has {key} {other}, and this is {own}")
        for name in names:
            if name not in self.rows:
                raise ValueError(f"--reference {self.path} was not measured under {name}")
            if sum(self.rows[name]["error"]) == 0:
                raise ValueError(
                    f"--reference {self.path} makes no error under {name}: nothing to divide by"
                )

    def ratios(self, rows: dict[str, dict[str, Any]], clean_error: float) -> dict[str, Any]:
        """mce and relative_mce in percent of the reference's, and ce of each corruption.

        relative: of what errors rise above those on clean images; None where the reference's do not rise.
        """
        ce, relative = {}, []
        for name, row in rows.items():
            own, other = sum(row["error"]), sum(self.rows[name]["error"])
            ce[name] = round(100 * own / other, 3)
            count = len(row["error"])
            rise = other - count * self.clean
            relative.append(100 * (own - count * clean_error) / rise if rise > 0 else None)
        known = [value for value in relative if value is not None]
        all_known = len(known) == len(relative)
        return {
            "reference": str(self.path),
            "mce": round(fmean(ce.values()), 3),
            "relative_mce": round(fmean(known), 3) if all_known else None,
            "ce": ce,
        }
