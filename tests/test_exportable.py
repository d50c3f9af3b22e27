"""Every backbone goes through torch.export with any number of images, and into ONNX: what `multicrop export` rests on.

A number that Python reads from a batch (`len(x)` does) would bake the example's number of images into the program.
Tracing and converting take seconds a network, so one of each set of parts goes through by default, and every
registered name where MULTICROP_FULL_SIZE is set.
"""

import os
import re

import pytest
import torch
from test_models import FAMILIES, KINDS, OF_OTHER_PARTS, OPTIONS, VARIANTS, build, images

from multicrop.commands import _export_onnx
from multicrop.supervised.classifier import Classifier

BATCH = {0: torch.export.Dim("batch")}
COUNTS = (1, 2, 5)
FACTORISE = {"fusion": "aten._linalg_svd", "manifold": "aten.linalg_qr"}  # ONNX has neither
OF_KNOWN_OPERATIONS = (  # combinations of what other families are made of
    "deit", "localvit_pvt", "localvit_swin", "localvit_t2t", "localvit_tnt", "pvt", "timm:vit_tiny_patch16_224",
)  # fmt: skip
CONVERTED = [name for name in FAMILIES if name not in (*FACTORISE, *OF_KNOWN_OPERATIONS)]
CONVERTED += ["riemmanian_vit_6_4_32", "timm:resnet10t"]
EXPORTED = [
    name for name in (*OF_KNOWN_OPERATIONS, *KINDS, *OF_OTHER_PARTS) if name not in CONVERTED
]
OTHERS = [name for name in (*OPTIONS, *VARIANTS) if name not in (*CONVERTED, *FACTORISE, *EXPORTED)]
ATTENDS_PLAINLY = 64  # px: more tokens than those for which attention is plain matrix products

pytestmark = [
    pytest.mark.usefixtures("onnx_functions"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@torch.no_grad()
def exported(model: torch.nn.Module, size: int = 32) -> torch.export.ExportedProgram:
    """The program, which gives what the network gives, for 1, 2 and 5 images, to the last bit."""
    program = torch.export.export(model.eval(), (images(size),), dynamic_shapes=(BATCH,))
    run = program.module()
    for count in COUNTS:
        x = images(size, batch=count)
        assert torch.equal(run(x), model(x))
    return program


def to_onnx(program: torch.export.ExportedProgram) -> bytes:
    return _export_onnx.to_onnx(program, {0: "batch"}, "features", {})


FULL_SIZE = pytest.mark.skipif(
    "MULTICROP_FULL_SIZE" not in os.environ, reason="ten minutes: set MULTICROP_FULL_SIZE=1"
)


@torch.no_grad()
def converted(model: torch.nn.Module) -> None:
    """ONNX Runtime gives what the network gives, too."""
    run = _export_onnx.runner(to_onnx(exported(model)))
    for count in COUNTS:
        x = images(32, batch=count)
        torch.testing.assert_close(run(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("arch", CONVERTED)
def test_any_number_of_images_also_in_onnx(arch):
    converted(build(arch))


@pytest.mark.slow
@FULL_SIZE
@pytest.mark.parametrize("arch", OF_KNOWN_OPERATIONS)
def test_combinations_in_onnx(arch):
    converted(build(arch))


@pytest.mark.slow
@pytest.mark.parametrize("arch", FACTORISE)
def test_an_operation_that_onnx_does_not_have_is_named_in_one_line(arch):
    program, operation = exported(build(arch)), re.escape(FACTORISE[arch])
    with pytest.raises(ValueError, match=f"needs {operation}, for which ONNX has no") as caught:
        to_onnx(program)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("arch", EXPORTED)
def test_any_number_of_images(arch):
    exported(build(arch))


@pytest.mark.slow
@FULL_SIZE
@pytest.mark.parametrize("arch", OTHERS)
def test_any_number_of_images_in_every_variant(arch):
    exported(build(arch))


def test_with_more_tokens_and_images_standardised_inside():
    exported(build("vit", ATTENDS_PLAINLY, patch_size=4, standardise=True), ATTENDS_PLAINLY)


@pytest.mark.parametrize("arch", ["vit", "deit_tiny_distilled"])
def test_a_classifier_of_one_or_two_heads(arch):
    exported(Classifier(build(arch), 5))
