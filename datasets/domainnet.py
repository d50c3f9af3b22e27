"""DomainNet (Peng et al. 2019): six domains of images in 345 classes, each a data set of its own.

--dataset clipart (or domainnet:clipart), infograph, painting, quickdraw, real, sketch. The official lists
<domain>_train.txt and <domain>_test.txt have one line "<domain>/<class>/<file> <label>" for each image; the same
images in class folders <domain>/{train,val}/<class>/ are read as well.
"""

from pathlib import Path

from ._data_set import DataSet
from ._folders import (
    Folder,
    Listing,
    above_train,
    by_list,
    class_names,
    evaluation_folder,
    existing_folder,
    image_set,
    split_by_class,
)
from ._images import DEFAULTS, ImageSet, LoadOptions, check_split

DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
MEAN = (0.485, 0.456, 0.406)  # ImageNet's, as in the published recipe
STD = (0.229, 0.224, 0.225)
HOME = "http://ai.bu.edu/M3SDA/"


def load(
    root: str | Path, split: str, options: LoadOptions = DEFAULTS, *, domain: str | None = None
) -> ImageSet:
    """root holds the domain's folder and its lists, or is that folder. domain=None: the one that is there.

    FileNotFoundError when images of a list are missing; ValueError when there are several domains.
    """
    found = listing(root, split, domain)
    return image_set(found, options, (MEAN, STD), trains=split == "train")


def listing(root: str | Path, split: str, domain: str | None = None) -> Listing:
    """The images of a split, not read yet."""
    check_split(split)
    folder = above_train(existing_folder(root))
    domain = domain or _only_domain(folder)
    for place in (folder, folder.parent):
        if (place / f"{domain}_{split}.txt").exists():
            return _listed(place, domain, split)
    for place in (folder / domain, folder):
        if class_names(place / "train") and evaluation_folder(place):
            return split_by_class(place, split)
    raise FileNotFoundError(
        f"there is no {domain} of DomainNet in {folder}: looked for {domain}_{split}.txt and "
        f"{domain}/{split}/<class>/; get it from {HOME}"
    )


def recognise(root: Folder) -> str | None:
    """By a domain's list, or by the name of the folder."""
    for name in DOMAINS:
        if (root / f"{name}_train.txt").exists() or class_names(root / name / "train"):
            return f"domainnet:{name}"
    if root.name in DOMAINS and class_names(root / "train"):
        return f"domainnet:{root.name}"
    return None


def _only_domain(root: Folder) -> str:
    """The one domain in root."""
    if root.name in DOMAINS:
        return root.name
    domains = []
    for name in DOMAINS:
        if (root / f"{name}_train.txt").exists() or (root / name).is_dir():
            domains.append(name)
    if len(domains) == 1:
        return domains[0]
    if domains:
        content, example = f"holds {', '.join(domains)}", domains[0]
    else:
        content, example = "holds none that is known by its name", DOMAINS[0]
    raise ValueError(
        f"{root} {content}: say which domain of DomainNet, e.g. --dataset domainnet:{example}"
    )


def _listed(place: Folder, domain: str, split: str) -> Listing:
    """The images of a list. A class is called after the folder of its images, in either list."""
    file = place / f"{domain}_{split}.txt"
    names, labels = _names_and_labels(file)
    class_of = _classes(names, labels)
    train = place / f"{domain}_train.txt"
    if split == "test" and train.exists():
        class_of |= _classes(*_names_and_labels(train))
    classes = []
    for label in range(max(class_of) + 1):
        classes.append(class_of.get(label, str(label)))
    return by_list(place, names, labels, tuple(classes), str(file))


def _classes(names: list[str], labels: list[int]) -> dict[int, str]:
    """The class of each label, after the folder of its images."""
    class_of = {}
    for name, label in zip(names, labels, strict=True):
        class_of[label] = name.split("/")[-2]
    return class_of


def _names_and_labels(file: Folder) -> tuple[list[str], list[int]]:
    """The lines of a list. ValueError when one of them is anything else."""
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


DATASET = DataSet(
    title="DomainNet",
    layout="`<domain>_{train,test}.txt` and `<domain>/<class>/`, or `<domain>/{train,val}/<class>/`",
    load=load,
    listing=listing,
    recognise=recognise,
    variants={
        "clipart": {"domain": "clipart"},
        "domainnet:clipart": {"domain": "clipart"},
        "infograph": {"domain": "infograph"},
        "domainnet:infograph": {"domain": "infograph"},
        "painting": {"domain": "painting"},
        "domainnet:painting": {"domain": "painting"},
        "quickdraw": {"domain": "quickdraw"},
        "domainnet:quickdraw": {"domain": "quickdraw"},
        "real": {"domain": "real"},
        "domainnet:real": {"domain": "real"},
        "sketch": {"domain": "sketch"},
        "domainnet:sketch": {"domain": "sketch"},
    },
)
