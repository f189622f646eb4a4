"""The guard against a fault of one kombu release."""

from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest
from kombu.transport import redis as transport

from jobkit import guard

Channel: Any = transport.Channel


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    original = getattr(Channel._connparams, "guards", Channel._connparams)
    monkeypatch.setattr(Channel, "_connparams", original)


@pytest.mark.usefixtures("untouched")
def test_a_collected_connection_is_a_lost_one() -> None:
    if version("kombu") not in guard.FAULTY:
        pytest.skip("this kombu has not got the fault")
    collected = SimpleNamespace(connection=SimpleNamespace(client=None))
    with pytest.raises(AttributeError):
        Channel._connparams(collected)

    assert guard.install()

    with pytest.raises(transport.redis.exceptions.ConnectionError):  # type: ignore[attr-defined]
        Channel._connparams(collected)


@pytest.mark.usefixtures("untouched")
def test_it_is_installed_once() -> None:
    guard.install()

    assert not guard.install()


@pytest.mark.usefixtures("untouched")
def test_another_kombu_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "FAULTY", ("0.0.0",))
    original = Channel._connparams

    assert not guard.install()
    assert Channel._connparams is original
