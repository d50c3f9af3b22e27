"""DomainNet (Peng et al. 2019): six domains of images in 345 classes, each a data set of its own.

--dataset clipart (or domainnet:clipart), infograph, painting, quickdraw, real, sketch. The official lists
<domain>_train.txt and <domain>_test.txt have one line "<domain>/<class>/<file> <label>" for each image; the same
images in class folders <domain>/{train,val}/<class>/ are read as well.
"""

from pathlib import Path

from ._archive import Inside
from ._folders import (
    Listing,
    above_train,
    by_list,
    class_names,
    evaluation_folder,
    existing_folder,
    image_set,
    split_by_class,
)
from ._images import ImageSet, check_split

DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
VARIANTS = {
    prefix + domain: {"domain": domain} for domain in DOMAINS for prefix in ("", "domainnet:")
}
MEAN = (0.485, 0.456, 0.406)  # ImageNet's, as in the published recipe
STD = (0.229, 0.224, 0.225)
HOME = "http://ai.bu.edu/M3SDA/"


def load(
    root: str | Path,
    split: str,
    *,
    source_size: int = 64,
    download: bool = False,
    seed: int = 0,
    stream: bool | None = None,
    workers: int | None = None,
    domain: str | None = None,
) -> ImageSet:
    """root holds the domain's folder and its lists, or is that folder. domain=None: the one that is there.

    FileNotFoundError when images of a list are missing; ValueError when there are several domains.
    """
    return image_set(listing(root, split, domain), source_size, (MEAN, STD), stream, workers)


def recognise(root: Path | Inside) -> str | None:
    """By a domain's list, or by the name of the folder."""
    known = [
        name
        for name in DOMAINS
        if (root / f"{name}_train.txt").exists() or class_names(root / name / "train")
    ]
    known += [root.name] if root.name in DOMAINS and class_names(root / "train") else []
    return f"domainnet:{known[0]}" if known else None


def listing(root: str | Path, split: str, domain: str | None = None) -> Listing:
    """The images of a split, not read yet."""
    check_split(split)
    root = above_train(existing_folder(root))
    domain = domain or _only(root)
    for place in (root, root.parent):
        if (place / f"{domain}_{split}.txt").exists():
            return _listed(place, domain, split)
    for place in (root / domain, root):
        if class_names(place / "train") and evaluation_folder(place):
            return split_by_class(place, split)
    raise FileNotFoundError(
        f"there is no {domain} of DomainNet in {root}: looked for {domain}_{split}.txt and {domain}/{split}/<class>/; "
        f"get it from {HOME}"
    )


def _only(root: Path | Inside) -> str:
    """The one domain in root."""
    here = [
        name for name in DOMAINS if (root / f"{name}_train.txt").exists() or (root / name).is_dir()
    ]
    if root.name in DOMAINS:
        here = [root.name]
    if len(here) == 1:
        return here[0]
    found = f"holds {', '.join(here)}" if here else "holds none that is known by its name"
    raise ValueError(
        f"{root} {found}: say which domain of DomainNet, e.g. --dataset domainnet:{(here or DOMAINS)[0]}"
    )


def _listed(place: Path | Inside, domain: str, split: str) -> Listing:
    files = {name: place / f"{domain}_{name}.txt" for name in ("train", "test")}
    names, labels = _lines(files[split])
    known = dict(zip(labels, (name.split("/")[-2] for name in names), strict=True))
    if split == "test" and files["train"].exists():
        others = _lines(files["train"])
        known |= dict(zip(others[1], (name.split("/")[-2] for name in others[0]), strict=True))
    classes = tuple(known.get(label, str(label)) for label in range(max(known) + 1))
    return by_list(place, names, labels, classes, str(files[split]))


def _lines(file: Path | Inside) -> tuple[list[str], list[int]]:
    """Names and labels of a list."""
    names, labels = [], []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        name, _, label = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not label.isdecimal() or len(label) > 4 or "/" not in name:
            raise ValueError(
                f"{file}, line {number}: {line[:60]!r} is not '<domain>/<class>/<file> <label>'"
            )
        names.append(name)
        labels.append(int(label))
    if not names:
        raise ValueError(f"{file} names no images")
    return names, labels
