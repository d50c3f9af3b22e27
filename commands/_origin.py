"""Where the images of a network come from: what flags say, else those that it was trained on."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multicrop.commands._conversion import conversion_of, stated_flags
from multicrop.config.data import NEW_COLUMNS, DataSettings
from multicrop.config.flags import typed
from multicrop.datasets._console import only_trying, say_once
from multicrop.datasets._convert import Conversion
from multicrop.datasets._table import NoColumn
from multicrop.engine.metadata import Metadata
from multicrop.registry import Source, source


@dataclass(frozen=True)
class DataOrigin:
    """A data set, its folder, and how its image files become pixels."""

    dataset: str
    datapath: str
    source_size: int | None
    """The side in pixels at which its image files were stored, the shorter one (None: not said)."""
    columns: tuple[tuple[str, str], ...] = ()
    """Flags that name columns, and their values."""
    conversion: Conversion = Conversion()
    stated: tuple[str, ...] = ()
    """Flags that say how files become pixels."""

    @property
    def source(self) -> Source:
        return source(self.dataset).with_columns(dict(self.columns))


def data_origin(data: DataSettings, metadata: Metadata) -> DataOrigin:
    """What the flags say, else what the weights were made with. Without either: shapes, ./data, None.

    Folder, side and columns of the weights' own data set hold for no other. Where the folder is another one, columns
    that are not in it are not taken over, and what is, is said.
    """
    trained_on = metadata.data.get("dataset", "shapes")
    dataset = data.dataset or trained_on
    if data.datapath and data.dataset is None:
        check_reads_folder(dataset, data.datapath)
    recipe: dict[str, Any] = {}
    if source(dataset) == source(trained_on):
        recipe = metadata.recipe
    datapath = data.datapath or recipe.get("datapath") or "./data"
    inherited = {name: recipe[name] for name in NEW_COLUMNS if recipe.get(name)}
    source_size = data.source_size or recipe.get("source_size")
    if not is_same_path(datapath, recipe.get("datapath")):
        unstated = {name: column for name, column in inherited.items() if name not in data.columns}
        inherited = fitting_columns(dataset, datapath, data.columns, unstated)
        if source_size != data.source_size:
            say_taken_over(datapath, {**inherited, "source_size": source_size})
        else:
            say_taken_over(datapath, inherited)
    return DataOrigin(
        dataset,
        datapath,
        source_size,
        tuple({**inherited, **data.columns}.items()),
        conversion_of(data, dataset, metadata),
        stated_flags(data),
    )


def check_reads_folder(dataset: str, datapath: str) -> None:
    """ValueError where nobody named a data set and the one that is taken is drawn: it would not look at the folder."""
    if source(dataset).entry == "shapes":  # any version of it
        raise ValueError(
            f"--datapath {datapath}: {dataset}, which is drawn and reads no folder, is taken where --dataset is not "
            f"given; multicrop check {datapath} says which one the folder is"
        )


def is_same_path(one: str, other: str | None) -> bool:
    return other is not None and os.path.realpath(one) == os.path.realpath(other)


def fitting_columns(
    dataset: str, datapath: str, stated: Mapping[str, str], inherited: Mapping[str, str]
) -> dict[str, str]:
    """Those of the columns that a network's own images had which these images have, too; of each other one a line."""
    columns = dict(inherited)
    while columns:
        entry = source(dataset).with_columns({**columns, **stated})
        try:
            with only_trying():
                entry.listing(datapath, "train")
        except NoColumn as error:
            if error.name not in columns:  # a stated one: it is said where the images are read
                return columns
            column = columns.pop(error.name)
            say_once(
                f"--{error.name} {column} of the weights' own images is not taken over: "
                f"{datapath} has no such column"
            )
        except (ValueError, FileNotFoundError):  # as above
            return columns
        else:
            return columns
    return columns


def say_taken_over(datapath: str, flags: Mapping[str, Any]) -> None:
    """A line about what these images get from those that the network was trained on."""
    if flags:
        words = " ".join(f"--{name} {typed(value)}" for name, value in flags.items())
        say_once(f"{datapath} is read as the weights' own images were, {words}: flags say others")
