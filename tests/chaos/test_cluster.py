"""The chaos driver, run as its command is: every promise is kept."""

import os
import secrets
import subprocess
import sys

import pytest

from tests import guardian
from tests.chaos.conftest import SEED
from tests.conftest import need_rabbit
from tests.worker.fleet import TOP


def assert_kept(seconds: int, broker: str) -> None:
    seed = os.environ.get(SEED) or str(secrets.randbits(16))
    chosen = ("--seconds", str(seconds), "--seed", seed, "--broker", broker)
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.driver", *chosen],
        cwd=TOP,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    guardian.protect(driver)
    try:
        told, _ = driver.communicate()
    finally:
        driver.kill()
        driver.wait()
        guardian.release(driver)
    print(told)  # noqa: T201
    assert driver.returncode == 0


@pytest.mark.timeout(180)  # the driver ends before, and tells what has not ended
def test_a_cluster_keeps_every_promise_under_a_few_random_faults() -> None:
    assert_kept(10, "redis")


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_cluster_keeps_every_promise_under_many_random_faults(broker: str) -> None:
    if broker == "rabbitmq":
        need_rabbit()
    assert_kept(600, broker)
