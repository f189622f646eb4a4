"""Settings have pinned defaults, and a wrong one is refused by name."""

import ssl
from dataclasses import fields
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery

from jobkit.errors import SettingsError
from jobkit.retry import RetryPolicy
from jobkit.settings import Settings, store_url

DEFAULTS = {
    "store_url": None,
    "prefix": "jobkit",
    "partitions": 1,
    "store_timeout": 2.0,
    "lease_seconds": 30.0,
    "checkpoint_interval": 1.0,
    "checkpoint_every": None,
    "retry_policy": None,
    "hint_seconds": 300.0,
    "dispatch_interval": 0.5,
    "ack_after": 10.0,
    "mirror_interval": 2.0,
    "keep_succeeded": 86_400.0,
    "keep_partial": 604_800.0,
    "keep_cancelled": 604_800.0,
    "keep_dead": 2_592_000.0,
    "dead_letter_notice": 86_400.0,
    "queues": None,
    "routes": None,
    "queue_order": "weighted",
    "time_slice": None,
    "limits": None,
    "show_arguments": False,
}

ACCEPTED = [
    ("store_url", "redis://localhost"),
    ("store_url", "rediss://:secret@localhost:6380/1?ssl_cert_reqs=none"),
    ("store_url", "valkey://localhost"),
    ("store_url", "valkeys://localhost"),
    ("store_url", "unix:///run/valkey.sock?db=2"),
    ("store_url", "redis+socket:///run/valkey.sock"),
    ("store_url", "sentinel://a:26379;b:26379/0?master_name=jobs"),
    ("store_url", "redis+cluster://localhost:7000"),
    ("prefix", "shop-1.jobs:eu_2"),
    ("partitions", 1024),
    ("checkpoint_every", 100),
    ("checkpoint_every", None),
    ("retry_policy", "never"),
    ("retry_policy", {"transient": 9}),
    ("retry_policy", RetryPolicy(transient=9)),
    ("mirror_interval", 0.0),
    ("queues", {"high": {}}),
    ("routes", {"*": "high"}),
    ("queue_order", "strict"),
    ("time_slice", 60.0),
    ("time_slice", None),
    ("show_arguments", True),
]

REFUSED = [
    ("store_url", 7),
    ("store_url", "localhost:6379"),
    ("store_url", "amqp://localhost"),
    ("store_url", "redis://a;redis://b"),
    ("prefix", ""),
    ("prefix", "{jobs}"),
    ("prefix", "with space"),
    ("prefix", "line\n"),
    ("prefix", None),
    ("partitions", 0),
    ("partitions", 1025),
    ("partitions", 2.0),
    ("partitions", True),
    ("checkpoint_every", 0),
    ("checkpoint_every", 1.5),
    ("retry_policy", "sometimes"),
    ("retry_policy", 5),
    ("retry_policy", SimpleNamespace(transient=1)),
    ("mirror_interval", -1),
    ("mirror_interval", None),
    ("queue_order", "random"),
    ("queue_order", ["strict"]),
    ("time_slice", 0),
    ("time_slice", "1m"),
    ("time_slice", True),
    ("show_arguments", "yes"),
    ("show_arguments", 1),
]

PERIODS = sorted(
    name
    for name, default in DEFAULTS.items()
    if isinstance(default, float) and name != "mirror_interval"
)


def refusal(conf: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings.read(conf)
    return str(caught.value)


def no_store(settings: Settings, conf: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        store_url(settings, conf)
    return str(caught.value)


@pytest.mark.parametrize(("name", "default"), DEFAULTS.items(), ids=list(DEFAULTS))
def test_a_setting_that_is_not_set_has_its_default(name: str, default: object) -> None:
    assert getattr(Settings.read({}), name) == default


def test_every_setting_has_a_pinned_default() -> None:
    assert [field.name for field in fields(Settings)] == list(DEFAULTS)


@pytest.mark.parametrize(("name", "value"), ACCEPTED)
def test_a_right_value_is_taken_as_it_is(name: str, value: object) -> None:
    assert getattr(Settings.read({f"jobkit_{name}": value}), name) == value


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_wrong_value_is_refused_by_name(name: str, value: object) -> None:
    message = refusal({f"jobkit_{name}": value})

    assert message.startswith(f"jobkit_{name} is ")
    assert repr(value) in message
    assert "expected" in message


@pytest.mark.parametrize("name", PERIODS)
@pytest.mark.parametrize(
    "value", [0, -1, True, "30", None, float("nan"), float("inf"), timedelta(0)]
)
def test_a_time_that_is_none_is_refused(name: str, value: object) -> None:
    assert repr(value) in refusal({f"jobkit_{name}": value})


@pytest.mark.parametrize("name", [*PERIODS, "mirror_interval"])
def test_a_time_may_be_a_number_or_a_span(name: str) -> None:
    whole = getattr(Settings.read({f"jobkit_{name}": 90}), name)
    span = getattr(Settings.read({f"jobkit_{name}": timedelta(minutes=1.5)}), name)

    assert whole == span == 90.0
    assert type(whole) is type(span) is float


def test_an_unknown_setting_is_refused_with_the_nearest_name() -> None:
    message = refusal({"jobkit_lease_second": 30})

    assert "jobkit_lease_second." in message
    assert "Did you mean jobkit_lease_seconds?" in message


def test_a_setting_like_no_other_is_refused_with_all_names() -> None:
    message = refusal({"jobkit_zzz": 30})

    assert all(f"jobkit_{name}" in message for name in DEFAULTS)


def test_the_secrets_of_an_address_are_not_in_its_refusal() -> None:
    message = refusal({"jobkit_store_url": "http://me:s3cret@host?password=s3cret"})

    assert "'http://***@host'" in message
    assert "s3cret" not in message


def test_what_is_not_ours_is_left_alone() -> None:
    conf = {"jobkit": 1, "task_serializer": "json", "JOBKIT_OTHER": 2, "my_jobkit_x": 3}

    assert Settings.read(conf) == Settings()


def test_settings_are_read_from_a_celery_app() -> None:
    app = Celery("shop", set_as_current=False)
    app.conf.jobkit_prefix = "before"
    app.add_defaults(lambda: {"jobkit_partitions": 4})
    app.conf.update(jobkit_prefix="shop")

    settings = Settings.read(app.conf)

    assert (settings.prefix, settings.partitions) == ("shop", 4)


def test_an_unknown_setting_of_a_celery_app_is_refused() -> None:
    app = Celery("shop", set_as_current=False)
    app.conf.jobkit_prefixx = "shop"

    assert "jobkit_prefix?" in refusal(app.conf)


def django_settings(**values: object) -> object:
    return SimpleNamespace(SECRET_KEY="x", TIME_ZONE="Europe/Berlin", **values)


def app_with_namespace(source: object, namespace: str = "CELERY") -> Any:
    app = Celery("shop", set_as_current=False)
    app.config_from_object(source, namespace=namespace)
    return app


def test_settings_are_read_under_a_namespace() -> None:
    app = app_with_namespace(
        django_settings(CELERY_JOBKIT_PREFIX="shop", CELERY_JOBKIT_LEASE_SECONDS=10)
    )

    settings = Settings.read(app.conf)

    assert (settings.prefix, settings.lease_seconds) == ("shop", 10.0)


def test_of_two_values_the_one_that_celery_takes_is_read() -> None:
    app = app_with_namespace(django_settings(CELERY_JOBKIT_PREFIX="django"))
    app.conf.update(jobkit_prefix="app")

    assert Settings.read(app.conf).prefix == app.conf.jobkit_prefix


def test_a_wrong_name_under_a_namespace_is_refused() -> None:
    app = app_with_namespace(django_settings(CELERY_JOBKIT_PREFIXX="shop"))

    assert "jobkit_prefix?" in refusal(app.conf)


@pytest.mark.parametrize(
    ("namespace", "right"),
    [("CELERY", "CELERY_JOBKIT_PREFIX"), ("celery", "celery_jobkit_prefix")],
)
def test_a_setting_without_its_namespace_is_refused_with_the_right_name(
    namespace: str, right: str
) -> None:
    app = app_with_namespace(django_settings(JOBKIT_PREFIX="shop"), namespace)

    assert refusal(app.conf) == f"JOBKIT_PREFIX is read by nobody: write {right}."


def test_an_upper_case_setting_is_refused_with_the_right_name() -> None:
    message = refusal({"JOBKIT_PREFIX": "shop"})

    assert message == "JOBKIT_PREFIX is read by nobody: write jobkit_prefix."


STORE = "redis://store/3"
BACKEND = "redis://backend/1"
BROKER = "redis://broker/0"


@pytest.mark.parametrize(
    ("own", "backend", "broker", "chosen"),
    [
        (STORE, BACKEND, BROKER, STORE),
        (None, BACKEND, BROKER, BACKEND),
        (None, "rpc://", BROKER, BROKER),
        (None, None, BROKER, BROKER),
        (None, None, [BROKER], BROKER),
        (None, BACKEND, "amqp://broker", BACKEND),
        (None, "valkey://backend", None, "valkey://backend"),
        (None, "redis+socket:///run/v.sock", None, "redis+socket:///run/v.sock"),
    ],
)
def test_the_store_is_the_first_address_that_can_be_one(
    own: str | None, backend: str | None, broker: Any, chosen: str
) -> None:
    conf = {"result_backend": backend, "broker_url": broker}

    assert store_url(Settings(store_url=own), conf) == chosen


def test_the_store_of_a_celery_app_is_its_backend() -> None:
    app = Celery("shop", broker=BROKER, backend=BACKEND, set_as_current=False)

    assert store_url(Settings.read(app.conf), app.conf) == BACKEND


def test_the_store_follows_celerys_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://elsewhere/5")
    app = Celery("shop", broker=BROKER, backend=BACKEND, set_as_current=False)

    assert store_url(Settings(), app.conf) == "redis://elsewhere/5"


@pytest.mark.parametrize(
    ("backend", "broker", "told"),
    [
        ("rpc://", "amqp://me:s3cret@mq", ["(rpc://...)", "(amqp://...)"]),
        (None, None, ["(not set)"]),
        ("db+sqlite:///x", "redis://a;redis://b", ["several addresses, redis://..."]),
        (None, ["redis://:s3cret@a", "redis://b"], ["several addresses, redis://..."]),
        (object(), "s3cret", ["(object)", "(no address)"]),
    ],
)
def test_without_a_store_the_error_says_what_to_set(
    backend: Any, broker: Any, told: list[str]
) -> None:
    message = no_store(Settings(), {"result_backend": backend, "broker_url": broker})

    assert "Set jobkit_store_url" in message
    assert all(words in message for words in told)
    assert "s3cret" not in message


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("redis://h/1?protocol=3", "redis://h/1?protocol=3"),
        ("rediss://h?ssl_cert_reqs=CERT_NONE", "rediss://h?ssl_cert_reqs=none"),
        ("rediss://h?ssl_cert_reqs=required", "rediss://h?ssl_cert_reqs=required"),
        ("redis+socket:///v.sock?virtual_host=2", "redis+socket:///v.sock?db=2"),
        ("redis://h/1?socket_timeout=120&retry_on_timeout=1", "redis://h/1"),
        (
            "rediss://h?ssl_ca_certs=/a%20b.pem&ssl_cert_reqs=CERT_OPTIONAL",
            "rediss://h?ssl_ca_certs=%2Fa+b.pem&ssl_cert_reqs=optional",
        ),
    ],
)
def test_celerys_parameters_are_put_in_the_words_of_redis_clients(
    written: str, meant: str
) -> None:
    assert store_url(Settings(), {"result_backend": written}) == meant


def test_the_times_in_the_stores_own_address_stay() -> None:
    settings = Settings(store_url="redis://h/1?socket_timeout=9")

    assert store_url(settings, {}) == "redis://h/1?socket_timeout=9"


def test_a_sentinel_group_brings_its_name_along() -> None:
    hosts = "sentinel://:pw@a:26379/0;sentinel://:pw@b:26379/0"
    conf = {
        "result_backend": hosts,
        "result_backend_transport_options": {"master_name": "the jobs"},
        "broker_transport_options": {"master_name": "not this one"},
    }

    assert store_url(Settings(), conf) == f"{hosts}?master_name=the+jobs"


def test_a_sentinel_broker_brings_its_name_along() -> None:
    conf = {
        "broker_url": ["sentinel://a:26379", "sentinel://b:26379"],
        "broker_transport_options": {"master_name": "jobs"},
    }

    found = store_url(Settings(), conf)

    assert found == "sentinel://a:26379;sentinel://b:26379?master_name=jobs"


def test_a_name_in_the_sentinel_address_stays() -> None:
    conf = {
        "broker_url": "sentinel://a;sentinel://b?master_name=mine",
        "broker_transport_options": {"master_name": "other"},
    }

    assert store_url(Settings(), conf) == conf["broker_url"]


def test_a_sentinel_without_a_name_is_left_as_it_is() -> None:
    conf = {"broker_url": "sentinel://a;sentinel://b", "broker_transport_options": {}}

    assert store_url(Settings(), conf) == conf["broker_url"]


@pytest.mark.parametrize("use", [True, {"ssl_cert_reqs": ssl.CERT_REQUIRED}, {}])
def test_a_store_without_tls_options_keeps_its_scheme_unless_told(use: object) -> None:
    scheme = "rediss" if use else "redis"
    conf = {"broker_url": "redis://h/1", "broker_use_ssl": use}

    assert store_url(Settings(), conf).startswith(f"{scheme}://h/1")


def test_the_tls_options_of_celery_come_along() -> None:
    conf = {
        "result_backend": "rediss://:pw@h:6380/1",
        "redis_backend_use_ssl": {
            "ssl_cert_reqs": ssl.CERT_NONE,
            "ssl_ca_certs": "/etc/ca.pem",
            "ssl_certfile": None,
            "ssl_check_hostname": False,
        },
    }

    pool = redis.ConnectionPool.from_url(store_url(Settings(), conf))

    assert pool.connection_class is redis.SSLConnection
    assert pool.connection_kwargs["ssl_ca_certs"] == "/etc/ca.pem"
    assert pool.connection_kwargs["ssl_cert_reqs"] == "none"
    assert pool.connection_kwargs["ssl_check_hostname"] is False
    assert "ssl_certfile" not in pool.connection_kwargs
    assert (pool.connection_kwargs["db"], pool.connection_kwargs["port"]) == (1, 6380)
