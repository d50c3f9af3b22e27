"""Multi-crop: the whole pipeline against Pillow on the same parameters, its draws, and slices of them."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import functional as tv

from multicrop.augment import colour
from multicrop.engine import compiled
from multicrop.ssl.crops import CPU_CHUNK, MultiCrop

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
RECIPE = MultiCrop(32, 16, 8, (0.7, 1.0), (0.2, 0.5), MEAN, STD)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def scenes(B, height=32, width=32, channels=3):
    """Smooth uint8 images with some noise: what Pillow's roundings are measured on."""
    coarse = torch.rand(B, channels, 5, 5, generator=generator(1)) * 255
    fine = torch.nn.functional.interpolate(
        coarse, (height, width), mode="bicubic", align_corners=True
    )
    return (fine + 8 * torch.randn(fine.shape, generator=generator(2))).clamp(0, 255).byte()


def pillow(image, views, v, b, size):
    """One crop by Pillow and torchvision alone -> levels (C,h,w)."""
    top, left, height, width = views.box[v, b].tolist()
    out = Image.fromarray(image.permute(1, 2, 0).numpy()).crop(
        (left, top, left + width, top + height)
    )
    out = out.resize((size, size), Image.Resampling.BICUBIC)
    out = ImageOps.mirror(out) if views.flip[v, b] else out
    change = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    factors = views.factors[v, b].tolist()
    if tuple(factors) != colour.IDENTITY:
        for operation in views.order[v, b].tolist():
            out = change[operation](out, factors[operation])
    out = tv.to_grayscale(out, 3) if views.grayscale[v, b] else out
    out = (
        out.filter(ImageFilter.GaussianBlur(views.sigma[v, b].item()))
        if views.sigma[v, b] > 0
        else out
    )
    out = ImageOps.solarize(out) if views.solarise[v, b] else out
    return torch.from_numpy(np.array(out)).permute(2, 0, 1).float()


def levels(crops, mean=MEAN, std=STD):
    return (crops * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)) * 255


@pytest.mark.parametrize("height,width", [(32, 32), (48, 48), (64, 48)])
def test_the_pipeline_is_that_of_pillow(height, width):
    """Pillow cuts fractions off in each operation and has 256 hues: a few levels darker, rarely more at a corner."""
    images = scenes(12, height, width)
    parameters = RECIPE.draw(12, height, width, generator())
    crops = RECIPE(images, parameters)
    assert crops.globals.shape == (2, 12, 3, 32, 32) and crops.locals.shape == (8, 12, 3, 16, 16)
    assert crops.globals.dtype == torch.float32
    for ours, views, size in (
        (crops.globals, parameters.globals, 32),
        (crops.locals, parameters.locals, 16),
    ):
        theirs = torch.stack(
            [
                torch.stack([pillow(images[b], views, v, b, size) for b in range(12)])
                for v in range(len(ours))
            ]
        )
        difference = (levels(ours) - theirs).abs()
        assert difference.mean() < 1.6
        assert difference.flatten(2).mean(-1).max() < 5
        assert (difference > 8).float().mean() < 0.01


def test_draws_have_the_published_probabilities_and_ranges():
    n = 20_000
    p = RECIPE.draw(n, 32, 32, generator())
    assert p.globals.box.shape == (2, n, 4) and p.locals.box.shape == (8, n, 4)
    assert not p.globals.solarise[0].any() and not p.locals.solarise.any()
    assert p.globals.solarise[1].float().mean() == pytest.approx(0.2, abs=0.012)
    blurred = torch.cat((p.globals.sigma, p.locals.sigma)) > 0
    assert blurred[0].all()
    assert blurred[1].float().mean() == pytest.approx(0.1, abs=0.012)
    assert blurred[2:].float().mean() == pytest.approx(0.5, abs=0.01)
    for views in (p.globals, p.locals):
        assert views.flip.float().mean() == pytest.approx(0.5, abs=0.012)
        assert views.grayscale.float().mean() == pytest.approx(0.2, abs=0.012)
        jittered = (views.factors != torch.tensor(colour.IDENTITY)).any(-1)
        assert jittered.float().mean() == pytest.approx(0.8, abs=0.012)
        offsets = (views.factors - torch.tensor(colour.IDENTITY))[jittered].abs().amax(0)
        torch.testing.assert_close(offsets, torch.tensor([0.4, 0.4, 0.2, 0.1]), rtol=0.01, atol=0)
        sigma = views.sigma[views.sigma > 0]
        assert 0.1 <= sigma.min() < 0.11 and 1.99 < sigma.max() <= 2.0
        assert sigma.mean() == pytest.approx(1.05, abs=0.02)
        first = torch.bincount(views.order[..., 0].flatten(), minlength=4) / views.flip.numel()
        torch.testing.assert_close(first, torch.full((4,), 0.25), atol=0.01, rtol=0)
        assert torch.equal(views.order.sort(-1).values, torch.arange(4).expand_as(views.order))


def test_crops_have_their_groups_scale():
    p = RECIPE.draw(5000, 32, 32, generator())
    # Large boxes of an extreme aspect do not fit and are drawn again: global crops are a little smaller than uniform.
    for views, low, high, mean in ((p.globals, 0.7, 1.0, 0.81), (p.locals, 0.2, 0.5, 0.35)):
        area = views.box[..., 2:].double().prod(-1) / 32**2
        assert low - 0.04 < area.min() and area.max() < high + 0.04  # sides are whole pixels
        assert area.mean() == pytest.approx(mean, abs=0.01)


def test_views_and_samples_differ():
    p = RECIPE.draw(64, 32, 32, generator())
    for field in dataclasses.fields(p.locals):
        value = getattr(p.locals, field.name).double()
        if field.name != "solarise":
            assert value.std(0).max() > 0 and value.std(1).max() > 0, field.name


def test_slices_of_a_draw_are_what_one_process_makes():
    """Two ranks, and uneven parts: the same views as all at once, up to the order of sums."""
    images = scenes(10)
    parameters = RECIPE.draw(10, 32, 32, generator())
    whole = RECIPE(images, parameters)
    assert len(parameters) == 10 and len(parameters[2:5]) == 3
    for bounds in ((0, 5, 10), (0, 3, 4, 10)):
        parts = [RECIPE(images[a:b], parameters[a:b]) for a, b in itertools.pairwise(bounds)]
        torch.testing.assert_close(
            torch.cat([p.globals for p in parts], 1), whole.globals, atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            torch.cat([p.locals for p in parts], 1), whole.locals, atol=1e-4, rtol=0
        )


def test_a_large_batch_is_worked_on_in_chunks():
    B = CPU_CHUNK + 3
    images, parameters = scenes(B), RECIPE.draw(B, 32, 32, generator())
    whole = RECIPE(images, parameters)
    last = RECIPE(images[-5:], parameters[B - 5 :])
    assert whole.globals.shape[1] == whole.locals.shape[1] == B
    torch.testing.assert_close(whole.globals[:, -5:], last.globals, atol=1e-4, rtol=0)
    torch.testing.assert_close(whole.locals[:, -5:], last.locals, atol=1e-4, rtol=0)


def test_a_seed_fixes_everything_and_the_global_generator_is_not_touched():
    images = scenes(6)
    before = torch.get_rng_state()
    one, same, other = (RECIPE(images, RECIPE.draw(6, 32, 32, generator(s))) for s in (7, 7, 8))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.globals, same.globals) and torch.equal(one.locals, same.locals)
    assert not torch.equal(one.globals, other.globals)


def test_images_are_left_alone():
    images = scenes(4)
    copy = images.clone()
    RECIPE(images, RECIPE.draw(4, 32, 32, generator()))
    assert torch.equal(images, copy)


def test_no_local_crops():
    recipe = dataclasses.replace(RECIPE, local_crops=0)
    crops = recipe(scenes(4), recipe.draw(4, 32, 32, generator()))
    assert crops.locals.shape == (0, 4, 3, 16, 16) and crops.globals.shape == (2, 4, 3, 32, 32)


def test_one_channel():
    recipe = dataclasses.replace(RECIPE, mean=(0.4,), std=(0.2,))
    crops = recipe(scenes(4, channels=1), recipe.draw(4, 32, 32, generator()))
    assert crops.globals.shape == (2, 4, 1, 32, 32) and crops.globals.isfinite().all()
    assert crops.globals.std() > 0.1


def test_plain_crops_are_only_normalised_images():
    recipe = MultiCrop(
        32,
        16,
        1,
        (1, 1),
        (1, 1),
        MEAN,
        STD,
        flip=0,
        jitter=0,
        grayscale=0,
        blur=(0, 0, 0),
        solarise=0,
    )
    images = scenes(4)
    parameters = recipe.draw(4, 32, 32, generator())
    parameters.globals.box[:] = torch.tensor([0, 0, 32, 32])
    expected = (images.float() / 255 - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(
        -1, 1, 1
    )
    torch.testing.assert_close(
        recipe(images, parameters).globals, expected.expand(2, -1, -1, -1, -1), atol=1e-4, rtol=0
    )


def test_autocast_outside_does_not_coarsen_the_crops():
    images, parameters = scenes(4), RECIPE.draw(4, 32, 32, generator())
    with torch.autocast("cpu", torch.bfloat16):
        crops = RECIPE(images, parameters)
    assert torch.equal(crops.globals, RECIPE(images, parameters).globals)


def traced(graphs: list):
    """What compiles a function as one graph, which is run as torch traces it, and notes it."""

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    return lambda function: torch.compile(function, backend=backend, fullgraph=True, dynamic=False)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 40)])
def test_the_crops_are_one_graph_without_the_making_of_tables(height, width):
    """Equal to the last bit; tables of weights, made in float64 on the CPU, are inputs of it."""
    graphs: list = []
    recipe = dataclasses.replace(RECIPE, local_crops=2, mean=(0.41, 0.52, 0.43))
    crop = recipe.compiled(traced(graphs))
    for seed in range(2):
        images = scenes(4, height, width)
        parameters = recipe.draw(4, height, width, generator(seed))
        crops = crop(images, parameters)
        for found, expected in zip(crops[:2], recipe(images, parameters)[:2], strict=True):
            assert torch.equal(found, expected)
    (graph,) = graphs
    made = [
        node.meta["example_value"] for node in graph.graph.nodes if "example_value" in node.meta
    ]
    assert all(each.dtype != torch.float64 for each in made if isinstance(each, torch.Tensor))
    assert not any(node.target in (torch.tensor, "item", "tolist") for node in graph.graph.nodes)


def test_where_the_crops_cannot_be_compiled_they_are_cut_plainly(monkeypatch, capsys):
    def broken(graph, inputs):
        raise OSError("no compiler")

    monkeypatch.setattr(compiled, "BACKEND", broken)
    crop = RECIPE.compiled(compiled.Compiler(True, "the crops").function)
    images = scenes(4)
    for seed in range(2):
        parameters = RECIPE.draw(4, 32, 32, generator(seed))
        assert torch.equal(crop(images, parameters).locals, RECIPE(images, parameters).locals)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "the crops are not compiled, which is slower: OSError: no compiler"


def test_normalising_is_one_graph():
    planes = 255 * torch.rand(3, 2, 4, 8, 8, generator=generator())
    crops = torch.compile(RECIPE.normalise, backend="eager", fullgraph=True)(planes)
    assert crops.is_contiguous() and crops.equal(RECIPE.normalise(planes))
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        assert crops[:, :, channel].equal(planes[channel].sub(255 * mean).div(255 * std))


@pytest.mark.parametrize(
    "change,words",
    [
        ({"global_scale": (0.9, 0.2)}, "global_scale"),
        ({"local_scale": (0.0, 0.5)}, "local_scale"),
        ({"local_crops": -1}, "local_crops"),
        ({"hue": 0.7}, "hue"),
        ({"jitter": 1.2}, "jitter"),
        ({"blur": (1.0, 0.1, 5)}, "blur"),
        ({"std": (0.2,)}, "mean and std"),
        ({"image_size": 0}, "image_size"),
    ],
)
def test_numbers_out_of_range_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(RECIPE, **change)


def test_images_and_parameters_must_match():
    parameters = RECIPE.draw(4, 32, 32, generator())
    with pytest.raises(ValueError, match="uint8"):
        RECIPE(scenes(4).float(), parameters)
    with pytest.raises(ValueError, match="for 4 images, but 3"):
        RECIPE(scenes(3), parameters)
    with pytest.raises(ValueError, match="drawn for"):
        RECIPE(scenes(4, 48, 48), parameters)
    with pytest.raises(ValueError, match="1 channels, but mean"):
        RECIPE(scenes(4, channels=1), parameters)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cuda_makes_the_same_crops_without_waiting():
    images, parameters = scenes(16), RECIPE.draw(16, 32, 32, generator())
    expected = RECIPE(images, parameters)
    images, parameters = images.cuda(), parameters.to("cuda")
    RECIPE(images, parameters)  # the tables are made at the first call
    torch.cuda.set_sync_debug_mode("error")
    try:
        crops = RECIPE(images, parameters)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(crops.globals.cpu(), expected.globals, atol=0.02, rtol=0)
    torch.testing.assert_close(crops.locals.cpu(), expected.locals, atol=0.02, rtol=0)
