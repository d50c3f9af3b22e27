"""For mkdocs.yml: links between docs/ and the rest of the repository work in a checkout and on the site.

The pages at the root that PAGES names become pages of the site. A link to any other file outside docs/ becomes plain
text there, since the site does not hold that file. A link to a file that does not exist is a warning, which
`mkdocs build --strict` takes for an error.
"""

import logging
import re
from pathlib import Path

from mkdocs.structure.files import File

PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "LOG.md": "log.md"}
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<path>[^)#:]+)(?P<anchor>#[^)]*)?\)")

log = logging.getLogger("mkdocs.hooks.links")


def on_files(files, config):
    for name, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(_root(config) / name)))
    return files


def on_page_markdown(markdown, page, config, files):
    root = _root(config)
    at_the_root = page.file.src_uri in PAGES.values()
    folder = root if at_the_root else Path(config.docs_dir)

    def on_the_site(link: re.Match) -> str:
        target = (folder / link["path"]).resolve()
        if not target.exists():
            log.warning(f"{page.file.src_uri} links to {link['path']}, which does not exist")
            return link["text"]
        name = target.relative_to(root).as_posix()
        uri = PAGES.get(name, name.removeprefix("docs/"))
        if name not in PAGES and not name.startswith("docs/"):
            return link["text"]
        return f"[{link['text']}]({uri}{link['anchor'] or ''})"

    return LINK.sub(on_the_site, markdown)


def _root(config) -> Path:
    return Path(config.config_file_path).resolve().parent
