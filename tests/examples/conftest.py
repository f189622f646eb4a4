"""Examples on a Valkey of their own, and a browser to look at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browsers import chromium
from tests.examples.programs import Example
from tests.servers import ValkeyServer

MakeExample = Callable[..., Example]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a Valkey for the examples of a module."""
    with ValkeyServer() as valkey:
        yield f"redis://127.0.0.1:{valkey.port}"


@pytest.fixture
def make_example(server: str, tmp_path: Path) -> Iterator[MakeExample]:
    """Makes examples from the variables that set them up."""
    with ExitStack() as stack:

        def make(**environment: str) -> Example:
            example = Example(tmp_path, server, **environment)
            stack.callback(example.close)
            return example

        yield make


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real browser."""
    with chromium() as browser:
        yield browser
