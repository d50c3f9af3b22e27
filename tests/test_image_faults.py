"""What a report looks for in images: near-duplicates, suspect labels and outliers, on images that are drawn here."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from multicrop.probes import near_duplicates, outliers, suspect_labels
from multicrop.probes.near_duplicates import Pair


def textures(count: int, side: int = 64, seed: int = 0) -> torch.Tensor:
    """Smooth random images (count, 3, side, side), each of its own."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 12, 12, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    return (smooth.clamp(0, 1) * 255).round().byte()


def encoded_anew(image: torch.Tensor, quality: int = 75) -> torch.Tensor:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)


def shifted(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    rows = (torch.arange(image.shape[1]) + down).clamp(0, image.shape[1] - 1)
    columns = (torch.arange(image.shape[2]) + right).clamp(0, image.shape[2] - 1)
    return image[:, rows][:, :, columns]


CHANGES = {
    "the same": lambda image: image,
    "encoded anew": encoded_anew,
    "mirrored": lambda image: encoded_anew(image.flip(-1)),
    "shifted": lambda image: encoded_anew(shifted(image, 5, -6)),
    "shifted and mirrored": lambda image: shifted(image, -4, 3).flip(-1),
    "brighter": lambda image: (image.float() * 0.7 + 60).byte(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(change):
    images = textures(40)
    pixels = torch.cat([images, CHANGES[change](images[7])[None]])
    (pair,) = near_duplicates.near_duplicates(pixels)
    assert (pair.first, pair.second) == (7, 40)
    assert pair.similarity > 0.9
    assert pair.mirrored == ("mirrored" in change)


def test_copies_of_another_size_are_found():
    small = torch.nn.functional.interpolate(
        textures(20)[:, :1].float(), (20, 30), mode="area"
    ).byte()
    pairs = near_duplicates.near_duplicates(torch.cat([small, small[3:4]]))
    assert [pair[:2] for pair in pairs] == [(3, 20)]


def test_images_without_structure_are_no_duplicates():
    flat = torch.full((5, 3, 64, 64), 90, dtype=torch.uint8)
    assert near_duplicates.near_duplicates(torch.cat([textures(10), flat])) == []
    assert near_duplicates.near_duplicates(flat[:1]) == []


def test_the_threshold_counts():
    images = textures(12)
    noise = torch.randn(images[0].shape, generator=torch.Generator().manual_seed(1)) * 40
    noisy = (images[4].float() + noise).clamp(0, 255).byte()
    pixels = torch.cat([images, noisy[None]])
    (pair,) = near_duplicates.near_duplicates(pixels, threshold=0.5)
    assert (pair.first, pair.second) == (4, 12) and 0.5 < pair.similarity < 0.9
    assert near_duplicates.near_duplicates(pixels, threshold=0.9) == []


def test_features_propose_candidates_of_their_own():
    """With one neighbour and spectra that agree with a decoy, the pair is found by its features alone."""
    images = textures(30)
    pixels = torch.cat([images, encoded_anew(images[7], 30)[None]])
    features = torch.eye(31)
    features[30] = features[7]
    found = near_duplicates.near_duplicates(pixels, features, neighbours=1)
    assert (7, 30) in [pair[:2] for pair in found]


def test_groups_join_pairs_that_share_an_image():
    pairs = [
        Pair(3, 9, 1.0, False),
        Pair(1, 2, 1.0, False),
        Pair(9, 4, 1.0, True),
        Pair(4, 3, 1.0, True),
    ]
    assert near_duplicates.groups(pairs) == [[1, 2], [3, 4, 9]]


# Suspect labels


def clusters(per_class: int = 40, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Features around a corner for each class, and the labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(per_class)
    features = 4 * torch.eye(classes, 8)[labels] + 0.5 * torch.randn(
        len(labels), 8, generator=generator
    )
    return features, labels


def test_swapped_labels_are_found_and_no_others():
    features, labels = clusters()
    wrong = labels.clone()
    wrong[[5, 50, 100]] = torch.tensor([1, 2, 0])
    found, accuracy = suspect_labels.suspect_labels(features, wrong)
    assert accuracy == pytest.approx(117 / 120)
    assert {(s.image, s.label, s.proposed) for s in found} == {(5, 1, 0), (50, 2, 1), (100, 0, 2)}
    assert all(suspect.agreeing <= 0.1 and suspect.margin > 0 for suspect in found)
    assert [s.margin for s in found] == sorted((s.margin for s in found), reverse=True)
    assert suspect_labels.suspect_labels(features, labels) == ([], 1.0)


def test_classes_of_few_images_are_not_judged():
    features, labels = clusters()
    labels[:3] = 3  # in the middle of class 0
    labels[4] = 1
    suspects, _ = suspect_labels.suspect_labels(features, labels)
    assert [suspect.image for suspect in suspects] == [4]
    with pytest.raises(ValueError, match="two classes have 5 images or more"):
        suspect_labels.suspect_labels(features[:6], torch.tensor([0, 0, 1, 1, 2, 2]))


def test_features_that_tell_nothing_apart_judge_no_labels():
    features = torch.randn(120, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"right for \d+% .* give a trained --network"):
        suspect_labels.suspect_labels(features, torch.arange(120) % 6)


def test_confident_disagreements_follow_the_classes_own_confidence():
    """Class 0 is told with 0.9 on average and class 1 with 0.6: 0.62 is enough for 1, and 0.8 is not for 0."""
    probabilities = torch.tensor(
        [[0.95, 0.05], [0.95, 0.05], [0.38, 0.62], [0.4, 0.6], [0.2, 0.8], [0.8, 0.2]],
        dtype=torch.double,
    )
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    assert suspect_labels.confident_disagreements(probabilities, labels) == {2: 1, 5: 0}
    probabilities[2] = torch.tensor([0.95, 0.05])  # now class 0 is told with 0.95
    assert suspect_labels.confident_disagreements(probabilities, labels) == {}


def test_neighbours_agreeing_leaves_the_image_itself_out():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    agreeing = suspect_labels.neighbours_agreeing(features, torch.tensor([0, 1, 1, 1]), k=2)
    assert agreeing.tolist() == [0.0, 0.5, 0.5, 0.5]


def test_every_class_is_spread_over_the_folds():
    labels = torch.tensor([0] * 10 + [1] * 5)
    fold = suspect_labels._folds(labels, seed=3)
    assert all(fold[labels == label].unique().tolist() == [0, 1, 2, 3, 4] for label in (0, 1))


# Outliers


def test_foreign_images_are_found_and_no_others():
    generator = torch.Generator().manual_seed(0)
    grey = textures(60)[:, :1].expand(-1, 3, -1, -1)
    features = torch.randn(62, 16, generator=generator)  # say nothing
    foreign = torch.stack([torch.zeros(3, 64, 64), torch.full((3, 64, 64), 128.0)]).byte()
    foreign[1, 0] = 255
    found = outliers.outliers(features, torch.cat([grey, foreign]), threshold=5)
    assert {outlier.image for outlier in found} == {60, 61}
    assert [outlier.score for outlier in found] == sorted((o.score for o in found), reverse=True)


def test_an_image_is_an_outlier_by_its_features_alone():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(80, 16, generator=generator)
    features[33] += 12
    found = outliers.outliers(features, textures(80), threshold=5)
    assert [outlier.image for outlier in found] == [33]


def test_two_images_have_no_outlier():
    assert outliers.outliers(torch.randn(2, 4), textures(2)) == []


def test_neighbour_distances_leave_the_image_itself_out():
    values = torch.tensor([[0.0], [1.0], [3.0], [10.0]])
    assert outliers.neighbour_distances(values, 2).tolist() == [2.0, 1.5, 2.5, 8.0]


def test_simple_statistics():
    image = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    image[0, 0] = torch.tensor([[255, 0], [255, 0]])
    mean, deviation, step, spread = (0.5, 0, 0), (3**-0.5, 0, 0), (1, 0, 0), 0.5
    expected = torch.tensor([[*mean, *deviation, *step, spread]])
    assert torch.allclose(outliers.simple_statistics(image), expected)


def test_where_most_images_are_equal_there_is_no_usual_distance():
    same, others = textures(1).expand(30, -1, -1, -1), textures(10, seed=1)
    features = torch.cat([torch.zeros(30, 4), torch.randn(10, 4)])
    with pytest.raises(ValueError, match="are equal to others"):
        outliers.outliers(features, torch.cat([same, others]))
