"""The page, what it starts, and the job's state for servers without ASGI."""

from __future__ import annotations

from importlib.resources import files

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect, render
from django.urls import path
from django.utils.http import urlencode

from examples.django_shop.tasks import change_prices, kit
from jobkit.web import Tokens, wsgi

PERCENTS = (5, 10, -20)

tokens = Tokens(settings.SECRET_KEY)


def page(request: HttpRequest) -> HttpResponse:
    """The form, and below it the job that the address names."""
    job, token = request.GET.get("job", ""), request.GET.get("token", "")
    src = f"/-/jobs/{job}?{urlencode({'token': token})}" if job else ""
    return render(request, "page.html", {"percents": PERCENTS, "src": src})


def start(request: HttpRequest) -> HttpResponse:
    """Start a change of prices; who started it gets a token for this one job."""
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    percent = request.POST.get("percent", "")
    if percent not in map(str, PERCENTS):
        return HttpResponse("There is no such percentage.", status=400)
    result = change_prices.delay(int(percent))
    seen = {"job": result.id, "token": tokens.sign(result.id, "act")}
    return redirect(f"/?{urlencode(seen)}")


# Under ASGI jobkit's app has all below /-/ (see asgi.py). Where Django is served by
# WSGI, these two say the same, and the element asks again and again.


def job(request: HttpRequest, job_id: str) -> HttpResponse:
    """How a job is, for who has its token."""
    if tokens.scope(request.GET.get("token", ""), job_id) is None:
        return HttpResponse(status=404)
    known = request.headers.get("If-None-Match", "")
    status, body, headers = wsgi.status(kit.jobs, job_id, if_none_match=known)
    text = "" if body is None else wsgi.dumps(body)
    return HttpResponse(text, "application/json", status, headers=headers)


def element(_: HttpRequest) -> HttpResponse:
    """The script of ``<job-progress>``."""
    script = files("jobkit.web").joinpath("job-progress.js").read_bytes()
    return HttpResponse(script, "text/javascript")


urlpatterns = [
    path("", page),
    path("changes", start),
    path("-/jobs/<job_id>", job),
    path("-/job-progress.js", element),
]
