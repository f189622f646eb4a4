"""That each script's header, its text and its Python declaration agree."""

import re
from importlib.resources import files

import pytest
import redis

from jobkit.store import scripts
from jobkit.store.scripts import VERBS, Verb
from jobkit.store.values import EVENTS_KEPT, Retention
from tests.servers import ValkeyServer

every_verb = pytest.mark.parametrize("verb", VERBS, ids=[verb.name for verb in VERBS])


@every_verb
def test_the_header_names_the_arguments_that_python_sends(verb: Verb) -> None:
    assert scripts.header(scripts.read(verb.name)) == verb.arguments


@every_verb
def test_each_argument_is_used_and_no_other(verb: Verb) -> None:
    body = re.sub(r"(?m)^--.*$", "", scripts.read(verb.name))
    used = {int(number) for number in re.findall(r"ARGV\[(\d+)\]", body)}
    assert used == set(range(1, len(verb.arguments) + 1))


@every_verb
def test_the_header_says_what_it_does_and_returns(verb: Verb) -> None:
    lines = scripts.read(verb.name).splitlines()
    assert re.fullmatch(r"-- [A-Z].*\.", lines[0])
    assert lines[1] == "-- KEYS[1] tag"
    assert any(line.startswith("-- Returns ") for line in lines)


@every_verb
def test_the_server_compiles_it(valkey: ValkeyServer, verb: Verb) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        assert client.script_load(scripts.source(verb, Retention()))


def test_every_script_is_a_verb() -> None:
    folder = files("jobkit.store").joinpath("lua")
    names = {entry.name for entry in folder.iterdir() if entry.name.endswith(".lua")}
    assert names == {f"{verb.name}.lua" for verb in VERBS} | {
        "prelude.lua",
        "prelude_limits.lua",
    }


@pytest.mark.parametrize("verb", [scripts.BEGIN, scripts.SUCCEED])
def test_what_every_job_runs_is_written_without_functions(verb: Verb) -> None:
    source = scripts.source(verb, Retention())
    assert re.findall(r"\bfunction (\w+)", source) == ["now"]
    assert "RETENTION = {" not in source


def test_scripts_know_what_python_says() -> None:
    text = scripts.constants(Retention(succeeded=1.5))
    assert "SUCCEEDED = 1500" in text
    assert str(EVENTS_KEPT) in text


@every_verb
def test_a_script_has_of_the_prelude_what_it_uses(verb: Verb) -> None:
    source = scripts.source(verb, Retention())
    declared = re.findall(r"(?m)^local function (\w+)", source)
    assert all(len(re.findall(rf"\b{name}\b", source)) > 1 for name in declared)


def test_a_short_script_is_short() -> None:
    assert "function file_failures" not in scripts.source(scripts.BEGIN, Retention())
    assert "function file_failures" in scripts.source(scripts.SAVE, Retention())


def test_a_header_out_of_order_is_noticed() -> None:
    with pytest.raises(ValueError, match="not in order"):
        scripts.header("-- ARGV[2] id\n-- ARGV[1] fence\n")


def test_only_the_prelude_reads_the_time() -> None:
    for verb in VERBS:
        assert "'TIME'" not in scripts.read(verb.name)
