"""The site: ``uvicorn examples.django_shop.asgi:site`` serves it."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application
from starlette.applications import Starlette
from starlette.routing import Mount

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "examples.django_shop.settings")
django = get_asgi_application()

from examples.django_shop.tasks import kit  # noqa: E402 - Django comes first
from examples.django_shop.urls import tokens  # noqa: E402 - likewise
from jobkit.web import jobs_app  # noqa: E402 - likewise

site = Starlette(
    routes=[
        Mount("/-", jobs_app(kit, tokens=tokens)),
        Mount("/", django),
    ]
)
