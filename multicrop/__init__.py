"""multicrop: DINO-style multi-crop pretraining for small, low-resolution image sets.

In a checkout the folders ssl/, models/, ... lie beside this package and have no __init__.py, because a top-level
package named `ssl` would hide Python's own. Their import name is multicrop.ssl, multicrop.models, ...
"""

from pathlib import Path

__version__ = "0.1.0"

_here = Path(__file__).resolve().parent
if not (_here / "ssl").is_dir():  # a checkout; in a wheel the folders are already inside
    __path__.append(str(_here.parent))
