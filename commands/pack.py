"""Copy a data set's image files into LMDB files, which are read in place and can be streamed.

multicrop pack photos --output_dir packed        # packed/train.lmdb and packed/test.lmdb
"""

from pathlib import Path
from typing import Any

from multicrop.commands import check
from multicrop.commands.check import recognise, splits_of
from multicrop.config.check import Recipe as Check
from multicrop.config.pack import Recipe
from multicrop.datasets._pack import pack


def run(r: Recipe) -> dict[str, Any]:
    data, name = recognise(r.path, r.dataset, r.columns)
    listings = {}
    for split in splits_of(data, r.path):
        listing = data.listing(r.path, split)
        if listing is None:
            raise ValueError(
                f"{r.path} holds {name} in files that are read at once: there is nothing to pack"
            )
        listings[split] = listing
    sizes = pack(listings, Path(r.output_dir).expanduser())
    packed = check.run(Check(r.output_dir, dataset="lmdb", decode=False))
    return {
        "status": "finished",
        "dataset": "lmdb",
        "output_dir": r.output_dir,
        "images": {split: packed[split]["images"] for split in listings},
        "bytes": sizes,
        "commands": packed["commands"],
    }
