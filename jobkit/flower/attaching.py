"""How the pages come into a Flower: routes, templates, metrics and a row of its own."""

from __future__ import annotations

import logging
import re
from typing import Any

from prometheus_client import REGISTRY
from tornado.ioloop import PeriodicCallback
from tornado.web import url

from jobkit.flower import CLOSE
from jobkit.flower.layout import Templates
from jobkit.flower.pages import ROUTES
from jobkit.flower.reading import Reader
from jobkit.flower.watching import EVERY, Watcher
from jobkit.task import kit_of

logger = logging.getLogger(__name__)


def attach(flower: Any) -> None:
    """See ``jobkit.flower.attach``; a second time changes nothing.

    Raises:
        SettingsError: A ``jobkit_*`` setting is wrong, or there is no store.
    """
    if CLOSE in flower.settings:
        return
    kit = kit_of(flower.capp)
    reader = Reader()
    watcher = Watcher(lambda: kit.jobs, reader)
    # Whatever can fail comes first: a Flower has all of our pages or none.
    loader = Templates(flower.settings["template_path"])
    _ = kit.settings, kit.store
    formatted = watcher.tell(flower.options.format_task)
    prefix = (flower.options.url_prefix or "").strip("/")
    before = f"/{prefix}" if prefix else ""
    _warn_of_shadows(flower, before)
    shared = {"kit": kit, "reader": reader}
    flower.add_handlers(
        r".*",
        [
            url(re.escape(before) + pattern, handler, shared, name or None)
            for pattern, handler, name in ROUTES
        ],
    )
    flower.settings["template_loader"] = loader
    flower.settings[CLOSE] = reader.close
    flower.options.format_task = formatted
    _begin(flower, watcher)


def _begin(flower: Any, watcher: Watcher) -> None:
    try:
        REGISTRY.register(watcher.numbers)
    except ValueError:
        logger.warning("Another Flower of this process has the metrics of the jobs.")
    flower.io_loop.add_callback(watcher.look)
    flower.io_loop.add_callback(PeriodicCallback(watcher.look, EVERY * 1000).start)


def _warn_of_shadows(flower: Any, before: str) -> None:
    """Say so if Flower itself has pages where ours are."""
    for rule in flower.wildcard_router.rules:
        regex = getattr(rule.matcher, "regex", None)
        if regex is None or regex.match(f"{before}/no such page"):
            continue
        for page in ("/jobs", "/dead-letters"):
            if regex.match(before + page):
                logger.warning("jobkit's page %s covers one of Flower's own.", page)
