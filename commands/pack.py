"""Copy a data set's image files into LMDB files, which are read in place and can be streamed.

multicrop pack photos --out packed        # packed/train.lmdb and packed/test.lmdb
"""

from pathlib import Path

from multicrop.commands import check
from multicrop.commands.check import recognised, splits_of
from multicrop.config.check import Recipe as Check
from multicrop.config.pack import Recipe
from multicrop.registry import find


def run(r: Recipe) -> dict:
    data, name = recognised(r.path, r.dataset)
    listings = {split: data.listing(r.path, split) for split in splits_of(data)}
    if None in listings.values():
        raise ValueError(
            f"{r.path} holds {name} in files that are read at once: there is nothing to pack"
        )
    sizes = find("datasets", "lmdb").pack(listings, Path(r.out).expanduser())
    packed = check.run(Check(r.out, dataset="lmdb", decode=False))
    counts = {split: packed[split]["images"] for split in listings}
    return {
        "status": "finished", "dataset": "lmdb", "out": r.out, "images": counts, "bytes": sizes,
        "commands": packed["commands"],
    }  # fmt: skip
