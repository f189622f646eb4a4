"""The site: ``uvicorn examples.fastapi_shop.site:site`` serves it."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from string import Template
from typing import Annotated
from urllib.parse import urlencode

from fastapi import FastAPI, Form
from fastapi.responses import HTMLResponse, RedirectResponse

from examples.fastapi_shop.tasks import kit, sync_orders
from jobkit.web import Tokens, jobs_app

PAGE = Template(Path(__file__).with_name("page.html").read_text("utf-8"))
PROGRESS = Template('<job-progress src="$src" label="Sync of orders"></job-progress>')

# A site of yours has a secret of its own, and none that stands in its code.
tokens = Tokens(os.environ.get("JOB_TOKEN_SECRET", "the secret of an example"))

site = FastAPI(title="A shop")
site.mount("/-", jobs_app(kit, tokens=tokens))


@site.get("/", response_class=HTMLResponse)
def page(job: str = "", token: str = "") -> str:
    """The form, and below it the job that the address names."""
    src = escape(f"/-/jobs/{job}?{urlencode({'token': token})}")
    return PAGE.substitute(progress=PROGRESS.substitute(src=src) if job else "")


@site.post("/syncs")
def start(shop: Annotated[str, Form(max_length=50)]) -> RedirectResponse:
    """Start a sync; who started it gets a token to see and to cancel this one job."""
    result = sync_orders.delay(shop)
    seen = {"job": result.id, "token": tokens.sign(result.id, "act")}
    return RedirectResponse(f"/?{urlencode(seen)}", status_code=303)
