"""multicrop: DINO-style multi-crop pretraining for small, low-resolution image sets.

    import multicrop

    multicrop.pretrain(dataset="images", datapath="unlabelled", image_size=64, output_dir="runs/a")
    backbone = multicrop.load("runs/a")
    features = backbone(multicrop.transform(backbone)(images))  # images uint8 (B, C, H, W)

In a checkout the folders ssl/, models/, ... lie beside this package and have no __init__.py, because a top-level
package named `ssl` would hide Python's own. Their import name is multicrop.ssl, multicrop.models, ...
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import (
        advise,
        embed,
        export,
        finetune,
        knn,
        labels,
        linear,
        load,
        load_classifier,
        predict,
        pretrain,
        report,
        robustness,
        transform,
    )
    from .datasets._images import ImageSet, LoadOptions

__version__ = "0.2.0"
__all__ = [
    "ImageSet", "LoadOptions", "advise", "embed", "export", "finetune", "knn", "labels", "linear", "load",
    "load_classifier", "predict", "pretrain", "report", "robustness", "transform",
]  # fmt: skip

_here = Path(__file__).resolve().parent
if not (_here / "ssl").is_dir():  # a checkout; in a wheel the folders are already inside
    __path__.append(str(_here.parent))


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used: torch takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = ".datasets._images" if name in ("ImageSet", "LoadOptions") else ".api"
    return getattr(import_module(module, __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
