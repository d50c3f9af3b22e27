import pytest

from multicrop.registry import backbone, find, names, source

SPELLINGS = {
    "cifar10": ["CIFAR10", "cifar10", "CIFAR-10"],
    "cifar100": ["CIFAR100"],
    "svhn": ["SVHN"],
    "cinic10": ["CINIC", "CINIC10", "cinic-10"],
    "tiny_imagenet": ["Tiny-Imagenet", "Tiny_Imagenet", "TinyImageNet", "tiny-imagenet"],
    "image_folder": ["image_folder", "ImageFolder"],
    "images": ["images"],
    "shapes": ["shapes"],
}


def test_files_are_entries_and_parts_are_not():
    assert set(SPELLINGS) <= set(names("datasets"))
    assert not any(name.startswith("_") for kind in ("models", "datasets") for name in names(kind))


@pytest.mark.parametrize(
    ("entry", "spelling"), [(e, s) for e, spellings in SPELLINGS.items() for s in spellings]
)
def test_published_spellings(entry, spelling):
    assert source(spelling).entry == entry


@pytest.mark.parametrize(
    ("kind", "name", "near"),
    [("datasets", "cifr10", "cifar10"), ("models", "vitt", "vit")],
)
def test_an_unknown_name_lists_what_there_is(kind, name, near):
    with pytest.raises(ValueError, match=near) as error:
        find(kind, name)
    assert repr(name) in str(error.value) and "\n" not in str(error.value)


def test_options_that_an_architecture_does_not_have_are_refused():
    with pytest.raises(ValueError, match="no option 'colour'"):
        backbone("vit", 32, colour=1)


def test_none_keeps_the_architectures_own_value():
    assert backbone("vit", 32, embed_dim=None, num_layers=1).dim == 192


def test_a_variant_builds_its_own_options_at_any_size(monkeypatch):
    from multicrop.models import vit

    monkeypatch.setattr(
        vit, "VARIANTS", {"vit_9_4_40": {"image_size": 40, "patch_size": 4, "embed_dim": 24}}, False
    )
    own = backbone("ViT-9-4-40", num_layers=1)
    assert (own.dim, own.patch_size, own.pos_embed.shape[1]) == (24, 4, 101)
    assert backbone("vit_9_4_40", 32, num_layers=1, patch_size=8).pos_embed.shape[1] == 17
    with pytest.raises(
        ValueError, match="--arch vit_9_4_41: no such backbone; did you mean 'vit_9_4_40'"
    ):
        backbone("vit_9_4_41", 32)
    with pytest.raises(ValueError, match="--arch vit has no image size of its own"):
        backbone("vit")
