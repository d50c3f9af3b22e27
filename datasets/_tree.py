"""What a folder or an archive holds, read when it is asked for: folders, images, and whatever is no image to train on.

Folders of the system and runs of this program are not entered. A link to a folder is followed unless it leads back up.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ._archive import ArchiveFolder, Folder
from ._endings import ending, is_image, is_table

# What operating systems, network drives and editors leave behind, in lower case
SYSTEM_FOLDERS = {
    "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "$recycle.bin", "recycler",
    "system volume information", "lost+found", "network trash folder", "temporary items", "__macosx", "__pycache__",
}  # fmt: skip
RECIPE = "recipe.yaml"
# Settings that every run of this program writes into its recipe, whatever its version
RECIPE_KEYS = {"output_dir", "save_steps", "log_freq"}
HIDDEN, SYSTEM, RUN = "hidden folder", "system folder", "run folder"
LINK = "link to what is read anyway"


def is_system_name(name: str) -> bool:
    """Whether a folder of this name is none of the data set's: hidden, or of the system."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def is_our_recipe(file: Folder) -> bool:
    """Whether a recipe.yaml was written by a run of this program."""
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError):  # none of ours
        return False
    return {line.partition(":")[0] for line in lines} >= RECIPE_KEYS


@dataclass
class Content:
    """The entries of one folder."""

    folders: dict[str, "Node"] = field(default_factory=dict)
    """Those that are entered, runs of this program among them."""
    images: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    """Files that are no images, counted by their endings."""
    tables: list[str] = field(default_factory=list)
    """Those of `others` that are tables."""
    hidden: int = 0
    """Hidden files."""
    broken: int = 0
    """Links to what is not there, and what is neither file nor folder."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Folders that are not entered, and why."""
    has_recipe: bool = False
    """Whether there is a file recipe.yaml."""


class Node:
    """A folder that is read once, at the first look.

    real: its path without links. above: those of the folders from which links led here. linked: it is such a link
    itself. scopes: the real paths of the folders that are read as a whole, one list for all nodes of a tree; other
    links into them are not followed, because they would give images twice. (Nodes in it would hold each other, and the
    names of millions of images would stay until garbage is looked for.)
    """

    def __init__(
        self,
        folder: Folder,
        real: str = "",
        above: tuple[str, ...] = (),
        linked: bool = False,
        scopes: list[str] | None = None,
    ):
        self.folder, self.above, self.linked = folder, above, linked
        self.real = real or os.path.realpath(str(folder))
        self.scopes: list[str] = [] if scopes is None else scopes
        self.is_scope = False

    def read_whole(self, *nodes: "Node") -> None:
        """These, below this folder or itself, are read as a whole."""
        for node in nodes:
            node.is_scope = True
            self.scopes.append(node.real)

    @cached_property
    def content(self) -> Content:
        if isinstance(self.folder, ArchiveFolder):
            return _archived(self.folder)
        return self._scan(self.folder)

    @cached_property
    def is_run(self) -> bool:
        """Whether this folder is a run of this program: it holds a recipe.yaml, and that is one of ours."""
        return self.content.has_recipe and is_our_recipe(self.folder / RECIPE)

    @property
    def folders(self) -> dict[str, "Node"]:
        """Those inside that may hold images of the data set. Each of them is read."""
        folders = self.content.folders
        return {name: child for name, child in folders.items() if child.why_ignored is None}

    @property
    def ignored(self) -> dict[str, str]:
        """Those that are not looked into, and why."""
        ignored = dict(self.content.ignored)
        for name, child in self.content.folders.items():
            if child.why_ignored:
                ignored[name] = child.why_ignored
        return ignored

    @property
    def why_ignored(self) -> str | None:
        if self.linked and not self.is_scope and self._is_read_anyway():
            return LINK
        return RUN if self.is_run else None

    def _is_read_anyway(self) -> bool:
        return any(_enters(scope, self.real) for scope in self.scopes)

    @property
    def images(self) -> list[str]:
        """Of this folder itself."""
        return self.content.images

    @property
    def tables(self) -> list[str]:
        """Of this folder itself, sorted."""
        return sorted(self.content.tables)

    def nodes(self, prefix: str = "") -> Iterator[tuple[str, "Node"]]:
        """This folder and all below, each with the prefix of its files' relative names."""
        yield prefix, self
        for name, child in self.folders.items():
            yield from child.nodes(f"{prefix}{name}/")

    def image_names(self) -> list[str]:
        """Relative names of all images below, sorted."""
        return sorted(prefix + name for prefix, node in self.nodes() for name in node.images)

    def _scan(self, folder: Path) -> Content:
        content = Content()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    self._add_folder(content, entry)
                elif not entry.is_file():
                    content.broken += 1
                else:
                    _add_file(content, entry.name)
        return content

    def _add_folder(self, content: Content, entry: os.DirEntry[str]) -> None:
        real = os.path.join(self.real, entry.name)
        child = Node(Path(entry.path), real, self.above, scopes=self.scopes)
        if entry.is_symlink() or _is_junction(entry):
            real = os.path.realpath(entry.path)
            if any(_holds(real, path) for path in (*self.above, self.real)):
                content.ignored[entry.name] = LINK
                return
            above = (*self.above, self.real)
            child = Node(Path(entry.path), real, above, linked=True, scopes=self.scopes)
        _add_child(content, entry.name, child)


def _is_junction(entry: os.DirEntry[str]) -> bool:
    """Whether it is Windows' link between folders."""
    return getattr(entry, "is_junction", bool)()  # Python 3.12


def _archived(folder: ArchiveFolder) -> Content:
    """The same of a folder inside an archive, where there are no links."""
    content = Content()
    folders = set(folder.folders())
    for name in sorted(folders):
        _add_child(content, name, Node(folder / name, str(folder / name)))
    for name in folder.own_files():
        _add_file(content, name)
    return content


def _add_child(content: Content, name: str, child: Node) -> None:
    if name.startswith("."):
        content.ignored[name] = HIDDEN
    elif is_system_name(name):
        content.ignored[name] = SYSTEM
    else:
        content.folders[name] = child


def _add_file(content: Content, name: str) -> None:
    if name == RECIPE:
        content.has_recipe = True
    if name.startswith("."):
        content.hidden += 1
    elif is_image(name):
        content.images.append(name)
    else:
        content.others[ending(name)] += 1
        if is_table(name):
            content.tables.append(name)


def _holds(outer: str, inner: str) -> bool:
    """Whether a folder is another one or has it somewhere below; both without links."""
    return Path(inner).is_relative_to(outer)


def _enters(outer: str, inner: str) -> bool:
    """Whether who reads a folder comes to another one, which may be below it; both without links."""
    if not _holds(outer, inner):
        return False
    return not any(is_system_name(part) for part in Path(inner).relative_to(outer).parts)


def has_images(node: Node) -> bool:
    """Whether there is an image somewhere below; looks no further than the first."""
    return bool(node.images) or any(has_images(child) for child in node.folders.values())


def holds_only_runs(node: Node) -> bool:
    """Whether a folder is like runs/: there are runs of this program in it, and no image elsewhere."""
    if has_images(node):
        return False
    return any(RUN in inner.ignored.values() for _, inner in node.nodes())


def count_files(folder: Folder) -> int:
    """All files below a folder that is not entered otherwise; links are files."""
    if isinstance(folder, ArchiveFolder):
        return sum(1 for _ in folder.files())
    total = 0
    for _, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        total += len(files) + len(links)
    return total
