"""Hooks of mkdocs: the pages that lie beside `docs/`, and links out of it.

`README.md` is the page of the package index and of the repository; its place in the site is the landing page.
Links to files that are no pages (scripts, recipes) become plain names.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).resolve().parent))
import messages

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BESIDE = {
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "index.md",
}
"""Files of the repository, each with the page that shows it."""
MESSAGES = "messages.md"
"""The page of all messages, made of the source code."""
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>(?!https?:|#)[^)\s#]+)(?P<anchor>#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages whose sources lie beside `docs/`."""
    for source, page in BESIDE.items():
        if page != "index.md":
            content = relinked((ROOT / source).read_text("utf-8"), ROOT)
            files.append(File.generated(config, page, content=content))
    files.append(File.generated(config, MESSAGES, content=messages.page()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead the links of a page to pages of the site."""
    if page.file.generated_by:
        return markdown
    return relinked(markdown, (DOCS / page.file.src_uri).parent)


def relinked(text: str, folder: Path) -> str:
    """Return Markdown whose links are those of the site.

    Args:
        text: The source of a page.
        folder: The folder its links start from.
    """

    def replaced(found: re.Match[str]) -> str:
        target = (folder / found["target"]).resolve()
        if not target.is_relative_to(ROOT) or not target.exists():
            return found[0]  # mkdocs reports it
        name = target.relative_to(ROOT).as_posix()
        if target.is_relative_to(DOCS):
            return found[0] if folder != ROOT else f"[{found['text']}]({name[5:]}{found['anchor'] or ''})"
        if name in BESIDE:
            up = "../" * len(folder.relative_to(DOCS).parts) if folder != ROOT else ""
            return f"[{found['text']}]({up}{BESIDE[name]}{found['anchor'] or ''})"
        return found["text"] if "`" in found["text"] else f"{found['text']} (`{name}`)"

    return LINK.sub(replaced, text)
