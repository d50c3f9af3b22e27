"""The part of a report about what a network has learned: crops, attention, features by place, neighbours, a map.

n images, D width of features.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from multicrop.commands._report_block import attempt
from multicrop.commands._report_features import Comparing
from multicrop.commands._report_images import SplitImages
from multicrop.commands._report_tiles import tile
from multicrop.commands.visualise import draw_run_crops
from multicrop.config.report import Looking
from multicrop.config.sizes import height_width
from multicrop.config.visualise import Recipe as Visualise
from multicrop.pictures import charts
from multicrop.pictures.figures import draw_maps
from multicrop.pictures.page import Block, Chart, Picture, Section, Tile, Tiles, Words
from multicrop.pictures.thumbnails import thumbnail
from multicrop.probes import spatial
from multicrop.probes.collapse import feature_statistics
from multicrop.probes.knn import search

IMAGES = 6  # rows of pictures
HEADS = 4  # of attention that are shown
NEIGHBOURS = 6
SMALL = 54  # px of an image: two rows of neighbours stand side by side
THUMBNAIL = 40  # px, of the map
TRAINED, RANDOM = "trained", "random weights"


def section(
    splits: Sequence[SplitImages], comparing: Comparing, looking: Looking, files: Path
) -> Section:
    """splits: the training images first. files: the folder of the pictures."""
    first, last = splits[0], splits[-1]
    blocks = attempt("crops", lambda: crops(first, comparing, looking, files))
    blocks += attempt("attention and features by place", lambda: places(last, comparing, files))
    features: dict[str, list[Tensor]] = {}

    def find_features() -> list[Block]:
        for name, network in (
            (TRAINED, comparing.trained()),
            (RANDOM, comparing.random(first.pixels.shape[1])),
        ):
            features[name] = [
                comparing.of(network, split, comparing.transform(split)) for split in (first, last)
            ]
        return []

    blocks += attempt("features", find_features)
    if RANDOM in features:
        blocks += attempt("nearest neighbours", lambda: neighbours(first, last, features))
        blocks += attempt("map of the images", lambda: map_of(last, features[TRAINED][1], looking))
        blocks += attempt("spectrum of the features", lambda: spectra(features))
    return Section("What the network has learned", blocks)


def evenly(images: SplitImages, count: int) -> list[int]:
    return torch.linspace(0, len(images) - 1, min(count, len(images))).long().unique().tolist()


def picture(path: Path, caption: str, width: int) -> Picture:
    return Picture(path.stem, caption, path.read_bytes(), width)


def crops(
    images: SplitImages, comparing: Comparing, looking: Looking, files: Path
) -> Iterator[Block]:
    """As the networks see them; of a run of stage one."""
    file = comparing.file
    assert file is not None
    if file.metadata.kind != "ssl":
        return
    chosen = images.pixels[evenly(images, IMAGES)]
    path = files / "crops.png"
    draw_run_crops(Visualise(run=str(file.path), seed=looking.seed), file, chosen, path)
    yield picture(path, "Crops of a step as the networks see them, to scale", 700)


def places(images: SplitImages, comparing: Comparing, files: Path) -> Iterator[Block]:
    network = comparing.trained()
    pixels = images.pixels[evenly(images, IMAGES)]
    seen = comparing.transform(images)(pixels.to(comparing.device))
    columns: dict[str, Tensor] = {}
    attention = spatial.attention_maps(network, seen)
    features = spatial.feature_maps(network, seen)
    if attention is not None:
        columns["all heads"] = attention.mean(1)
        heads = attention.shape[1]
        if heads > 1:
            columns |= {f"head {head + 1}": attention[:, head] for head in range(min(heads, HEADS))}
    if features is not None:
        if attention is None:
            columns["energy"] = spatial.energy(features)
        columns["main directions"] = spatial.main_colours(features)
    if not columns:
        yield Words("This network has neither attention over places nor features that have places.")
        return
    sides = height_width(comparing.image_size)
    shown = F.interpolate(
        pixels.float() / 255, sides, mode="bilinear", antialias=True, align_corners=False
    )
    path = files / "places.png"
    draw_maps(shown, columns, path)
    what = (
        "Attention of the last layer that has one" if attention is not None else "Activation energy"
    )
    yield picture(
        path,
        f"{what}, and the main directions of the features of each place as colours",
        120 * (1 + len(columns)),
    )


def neighbours(
    train: SplitImages, test: SplitImages, features: dict[str, list[Tensor]]
) -> Iterator[Block]:
    groups: list[tuple[str, list[Tile]]] = []
    asked = evenly(test, IMAGES)
    same = train is test
    for image in asked:
        for name, (bank, queries) in features.items():
            count = min(NEIGHBOURS + same, len(bank))
            _, indices = search(bank, queries[image : image + 1], count)
            nearest = [index for index in indices[0].tolist() if not (same and index == image)][
                :NEIGHBOURS
            ]
            tiles = [tile(test, image)] + [tile(train, index) for index in nearest]
            groups.append((name, tiles))
    yield Tiles(
        f"{test.split} images, and to their right the nearest {train.split} images, by the trained network and by "
        "its random weights",
        groups,
        SMALL,
    )


def map_of(images: SplitImages, features: Tensor, looking: Looking) -> Iterator[Block]:
    """t-SNE, van der Maaten and Hinton 2008, by scikit-learn."""
    from sklearn.manifold import TSNE

    chosen = evenly(images, looking.map_images)
    if len(chosen) < 5:
        yield Words("Too few images for a map.")
        return
    unit = F.normalize(features[chosen] - features.mean(0), dim=1).numpy()
    perplexity = min(30.0, (len(chosen) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=looking.seed).fit_transform(unit)
    rows: list[dict[str, Any]] = [
        {
            "x": round(float(x), 2),
            "y": round(float(y), 2),
            "image": thumbnail(images.pixels[image], THUMBNAIL),
            "name": images.names[image],
            "class": images.class_of(image) or "no label",
        }
        for image, (x, y) in zip(chosen, places, strict=True)
    ]
    many = "; colours come again" if len({row["class"] for row in rows}) > charts.COLOURS else ""
    yield Chart(
        "map",
        f"{len(rows)} {images.split} images by their features (t-SNE); the mouse shows them{many}",
        charts.points(rows, "class"),
    )


def spectra(features: dict[str, list[Tensor]]) -> Iterator[Block]:
    rows, ranks = [], []
    for name, (_, values) in features.items():
        if len(values) < 2:
            raise ValueError("one image has no spectrum")
        ranks.append(f"{name} {feature_statistics(values)['feature_rank']:.1f}")
        rows += [
            {"direction": number, "share": float(share), "features": name}
            for number, share in enumerate(spatial.spectrum(values)[:256].tolist(), start=1)
        ]
    yield Chart(
        "spectrum",
        f"Deviation along each main direction as a share of all; feature rank: {', '.join(ranks)}",
        charts.lines(rows, "direction", "share", "features"),
    )
