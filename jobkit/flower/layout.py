"""Our templates among Flower's own, and the links in its navigation bar."""

from __future__ import annotations

import logging
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from tornado.escape import xhtml_escape
from tornado.template import BaseLoader, Template

logger = logging.getLogger(__name__)

FLOWERS = "flowers:"
"""What the name of a template of Flower's begins with where ours has its place."""

TABS = (
    ("jobs", "Jobs", "jobkit_jobs"),
    ("dead-letters", "Dead letters", "jobkit_dead_letters"),
)

WRAPPERS = {
    "navbar.html": (
        "{% from jobkit.flower.layout import linked %}"
        "{% apply (lambda html: linked(html, reverse_url, active_tab)) %}"
        '{% include "flowers:navbar.html" %}{% end %}'
    ),
    "task.html": (
        '{% extends "flowers:task.html" %}{% block extra_scripts %}'
        "<script src=\"{{ reverse_url('jobkit_asset', 'task.js') }}\" "
        "data-root=\"{{ reverse_url('jobkit_jobs') }}\"></script>{% end %}"
    ),
}


class Templates(BaseLoader):
    """Flower's templates by their own names, with ours in ``jobkit/``."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = Path(folder)

    def resolve_path(self, name: str, parent_path: str | None = None) -> str:
        """The name: all of them lie in one place."""
        _ = parent_path
        return name

    def _create_template(self, name: str) -> Template:
        return Template(self._source(name), name=name, loader=self)

    def _source(self, name: str) -> str:
        if name.startswith("jobkit/"):
            ours = files(__package__).joinpath(
                "templates", name.removeprefix("jobkit/")
            )
            return ours.read_text("utf-8")
        return WRAPPERS.get(name) or (
            self._folder.joinpath(name.removeprefix(FLOWERS)).read_text("utf-8")
        )


def linked(html: bytes | str, reverse_url: Any, active: str) -> str:
    """Flower's navigation bar with our links, made like the one to its brokers.

    Where there is none, they are in a bar of their own below it.
    """
    html = html.decode() if isinstance(html, bytes) else html
    broker = xhtml_escape(reverse_url("broker"))
    rest = r"(?:(?!</li>).)*?"
    item = re.compile(
        rf'<li\b(?:(?!<li\b|</li>).)*?href="{re.escape(broker)}"{rest}>Broker</a>{rest}</li>',
        re.DOTALL,
    ).search(html)
    if item is None:
        return html + _own_bar(reverse_url)
    links = [
        _like(item[0], broker, xhtml_escape(reverse_url(name)), label, tab == active)
        for tab, label, name in TABS
    ]
    return html[: item.end()] + "".join(links) + html[item.end() :]


def _like(item: str, broker: str, url: str, label: str, active: bool) -> str:  # noqa: FBT001
    item = re.sub(r'\s*aria-current="page"|(?<=[\s"])active(?=[\s"])', "", item)
    item = item.replace(broker, url).replace(">Broker<", f">{label}<")
    if active:
        item = item.replace(
            'class="nav-link', 'aria-current="page" class="nav-link active', 1
        )
    return item


def _own_bar(reverse_url: Any) -> str:
    logger.warning("Flower's navigation bar is not as jobkit knows it.")
    links = (
        f'<a class="nav-link" href="{xhtml_escape(reverse_url(name))}">{label}</a>'
        for _, label, name in TABS
    )
    return f'<nav class="nav" aria-label="Jobs">{"".join(links)}</nav>'
