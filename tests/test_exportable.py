"""Every backbone goes through torch.export with any number of images: what `multicrop export` rests on.

A number that Python reads from a batch (`len(x)` does) would bake the example's number of images into the program.
"""

import pytest
import torch
from test_models import OPTIONS, VARIANTS, build, images

from multicrop import registry
from multicrop.supervised.classifier import Classifier

# Most of their parts are those of other families, and tracing them takes seconds each.
SLOW = ("timm", "localvit_pvt", "localvit_swin", "localvit_t2t", "localvit_tnt")
QUICK = [name for name in registry.names("models") if name not in SLOW] + ["timm:resnet10t"]
REST = [name for name in (*OPTIONS, *VARIANTS) if name not in QUICK]
ATTENDS_PLAINLY = 64  # px: more tokens than those for which attention is plain matrix products

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@torch.no_grad()
def check_any_batch(model: torch.nn.Module, size: int = 32) -> None:
    """The exported program gives what the network gives, for 1, 2 and 5 images, to the last bit."""
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(model.eval(), (images(size),), dynamic_shapes=(batch,))
    for count in (1, 2, 5):
        x = images(size, batch=count)
        assert torch.equal(program.module()(x), model(x))


@pytest.mark.parametrize("arch", QUICK)
def test_any_number_of_images(arch):
    check_any_batch(build(arch))


@pytest.mark.slow
@pytest.mark.parametrize("arch", REST)
def test_any_number_of_images_in_every_variant(arch):
    check_any_batch(build(arch))


def test_with_more_tokens_and_images_standardised_inside():
    check_any_batch(build("vit", ATTENDS_PLAINLY, patch_size=4, standardise=True), ATTENDS_PLAINLY)


@pytest.mark.parametrize("arch", ["vit", "deit_tiny_distilled"])
def test_a_classifier_of_one_or_two_heads(arch):
    check_any_batch(Classifier(build(arch), 5))
