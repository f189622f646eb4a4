"""The description of the web API, for its readers and for generators of clients."""

from __future__ import annotations

from typing import Any

from jobkit.states import State

_TEXT = {"type": ["string", "null"]}
_MOMENT = {"type": ["string", "null"], "format": "date-time"}
_NUMBER = {"type": ["number", "null"]}
_COUNT = {"type": "integer"}
_NUMBERS = ("total", "percent", "rate", "eta_seconds", "stage_index", "stage_count")


def description(version: str, root: str = "") -> dict[str, Any]:
    """The API in OpenAPI 3.1; ``root`` is the path under which it is mounted."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "jobkit", "version": version},
        "servers": [{"url": root or "/"}],
        "paths": _paths(),
        "components": {
            "schemas": {
                "Job": _job(),
                "Error": _error(),
                "CeleryProgress": _contract(),
            },
            "securitySchemes": {
                "query": {"type": "apiKey", "in": "query", "name": "token"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
        "security": [{"query": []}, {"bearer": []}, {}],
    }


def _paths() -> dict[str, Any]:
    etag = _header("If-None-Match", "The ETag of the answer that is known.")
    last = _header("Last-Event-ID", "The id of the last event that was received.")
    paths = {
        "/jobs/{id}": _get("How a job is.", "Job", etag, **{"304": "Nothing new."}),
        "/jobs/{id}/events": _get(
            "What happens to a job, each time as the whole document: first a snapshot, "
            "or what came since Last-Event-ID; `event: end` is the last.",
            "Job",
            last,
            media="text/event-stream",
            **{"204": "It has ended, and the last event was received."},
        ),
        "/progress/{id}/": _get("As celery-progress tells it.", "CeleryProgress"),
    }
    for action in ("cancel", "pause", "resume"):
        told = _get(
            f"{action.capitalize()} a job; the answer is how it is then.",
            "Job",
            **{
                "403": "Not from this page, or not by this reader.",
                "409": "It cannot be.",
            },
        )
        paths[f"/jobs/{{id}}/{action}"] = {"post": told["get"]}
    return paths


def _get(
    summary: str,
    schema: str,
    *parameters: dict[str, Any],
    media: str = "application/json",
    **responses: str,
) -> dict[str, Any]:
    job_id = {
        "name": "id",
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
    }
    failures = {"404": "There is none, or it is not yours.", "503": "Come back later."}
    told: dict[str, Any] = {
        status: {"description": text} | _content("Error", status)
        for status, text in sorted({**responses, **failures}.items())
    }
    answer = {"description": summary, "content": {media: {"schema": _ref(schema)}}}
    return {
        "get": {
            "summary": summary,
            "parameters": [job_id, *parameters],
            "responses": {"200": answer, **told},
        }
    }


def _content(schema: str, status: str) -> dict[str, Any]:
    if status < "400":
        return {}
    return {"content": {"application/json": {"schema": _ref(schema)}}}


def _ref(schema: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema}"}


def _header(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": text, "schema": _TEXT}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": sorted(properties)}


def _job() -> dict[str, Any]:
    job = _object(
        id={"type": "string"},
        task={"type": "string"},
        event={"type": "string"},
        state={"enum": [*map(str, State)]},
        reason=_TEXT,
        finished={"type": "boolean"},
        asked={"enum": ["cancel", "pause", None]},
        stale={
            "type": "boolean",
            "description": "Its worker has been silent for long.",
        },
        stale_since=_MOMENT,
        presentation={"enum": ["spinner", "bar", "stages", "come-back-later"]},
        progress=_object(
            **dict.fromkeys(("current", "ok", "failed", "skipped"), _COUNT),
            **dict.fromkeys(_NUMBERS, _NUMBER),
            **dict.fromkeys(("message", "stage"), _TEXT),
        ),
        stages={
            "type": "array",
            "items": _object(
                name={"type": "string"}, state={"enum": ["done", "current", "waiting"]}
            ),
        },
        attempts=_COUNT,
        open_failures=_COUNT,
        **dict.fromkeys(("created_at", "started_at", "updated_at"), _MOMENT),
        **dict.fromkeys(("finished_at", "due_at"), _MOMENT),
        poll_after={**_NUMBER, "description": "Seconds; null when it has ended."},
        actions={"type": "array", "items": {"enum": ["cancel", "pause", "resume"]}},
    )
    shown = {"worker": _TEXT, "error": {"type": ["object", "null"]}}
    return {**job, "properties": {**job["properties"], **shown}}


def _error() -> dict[str, Any]:
    return _object(error=_object(code={"type": "string"}, message={"type": "string"}))


def _contract() -> dict[str, Any]:
    known = ("PENDING", "STARTED", "PROGRESS", "RETRY", "SUCCESS", "FAILURE", "REVOKED")
    return _object(
        state={"enum": [*known]},
        complete={"type": "boolean"},
        success={"type": ["boolean", "null"]},
        progress={"type": "object"},
    )
