"""Which jobs are the same: the unique key that a task makes of its arguments."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, Literal, cast, get_args

from jobkit import codec
from jobkit.errors import CodecError, SettingsError

ALL = "*"
"""What ``unique_on`` says for all arguments."""

LONGEST = 200
"""Bytes of a key that are kept as they are; of a longer one a hash is."""

OnDuplicate = Literal["return", "raise", "replace_queued"]
Until = Literal["finish", "start"]


@dataclass(frozen=True, slots=True)
class Uniqueness:
    """What makes two jobs of a task the same, how long, and what is done then.

    ``names`` are the arguments that count, None for all; ``until`` is "finish",
    "start" or a number of seconds.
    """

    task: str
    signature: inspect.Signature
    names: tuple[str, ...] | None
    until: Until | float
    on_duplicate: OnDuplicate

    @classmethod
    def of(cls, task: type[Any]) -> Uniqueness | None:
        """Read the options of a task's class; None if its jobs are not unique.

        Raises:
            SettingsError: One of them is wrong.
        """
        until, on_duplicate = _until(task.unique_until), task.on_duplicate
        if on_duplicate not in get_args(OnDuplicate):
            raise SettingsError(
                f"on_duplicate is one of {[*get_args(OnDuplicate)]}, not "
                f"{on_duplicate!r}."
            )
        if task.unique_on is None:
            return None
        signature = _signature(task)
        names = _names(task.unique_on, signature)
        return cls(task.name, signature, names, until, on_duplicate)

    def key(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        sent: Callable[[Any], Any],
    ) -> str:
        """The unique key of a call; ``sent`` makes of a value what a worker gets.

        However an argument is given, by place, by name or by default, the key is the
        same.

        Raises:
            CodecError: An argument is missing, or has a type that is not kept.
        """
        chosen = self._chosen(args, kwargs)
        text = ",".join(
            f"{codec.dumps(name)}:{self._text(name, chosen[name], sent)}"
            for name in sorted(chosen)
        )
        key = f"{self.task}:{{{text}}}"
        if len(key.encode()) > LONGEST:
            return f"{self.task}:{hashlib.sha256(text.encode()).hexdigest()}"
        return key

    def _chosen(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            bound = self.signature.bind_partial(*args, **kwargs)
        except TypeError as error:
            raise CodecError(
                f"Task {self.task!r} does not take this: {error}."
            ) from None
        bound.apply_defaults()
        given = {**kwargs, **bound.arguments}
        if self.names is None:
            return dict(bound.arguments)
        for name in self.names:
            if name not in given:
                raise CodecError(
                    f"Task {self.task!r} is called without its argument {name!r}, of "
                    "which its unique key is made."
                )
        return {name: given[name] for name in self.names}

    def _text(self, name: str, value: Any, sent: Callable[[Any], Any]) -> str:
        try:
            return codec.dumps(_canonical(sent(value)), what="value")
        except CodecError as error:
            raise CodecError(
                f"Task {self.task!r} cannot make its unique key of the argument "
                f"{name!r}: {error}"
            ) from error


def _canonical(value: Any) -> Any:
    """The same for values that are the same to a worker, whatever carries them."""
    if isinstance(value, dict):
        items = sorted(value.items(), key=lambda item: repr(item[0]))
        return {key: _canonical(item) for key, item in items}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return value


def _signature(task: type[Any]) -> inspect.Signature:
    """What a caller passes to ``run``: all but ``self``."""
    signature = inspect.signature(task.run)
    if isinstance(inspect.getattr_static(task, "run"), staticmethod):
        return signature
    _, *parameters = signature.parameters.values()
    return signature.replace(parameters=parameters)


def _names(unique_on: Any, signature: inspect.Signature) -> tuple[str, ...] | None:
    if unique_on == ALL:
        return None
    is_list = isinstance(unique_on, list | tuple)
    if not is_list or not all(isinstance(name, str) for name in unique_on):
        raise SettingsError(
            f"unique_on is a list of names of arguments, or {ALL!r} for all of them: "
            f"{unique_on!r}."
        )
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    named = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
    ]
    for name in unique_on:
        if name not in named and inspect.Parameter.VAR_KEYWORD not in kinds:
            near = get_close_matches(name, named, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise SettingsError(
                f"unique_on names {name!r}, which is no argument: it has {named}.{hint}"
            )
    return tuple(unique_on)


def _until(value: Any) -> Until | float:
    if value in get_args(Until):
        return cast("Until", value)
    if isinstance(value, timedelta):
        value = value.total_seconds()
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # Not below the milliseconds that the store counts, and not for ever.
    if not is_number or not 0.001 <= value < 1e9:  # noqa: PLR2004
        raise SettingsError(
            f"unique_until is 'finish', 'start', or a number of seconds above 0, not "
            f"{value!r}."
        )
    return float(value)
