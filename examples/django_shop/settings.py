"""Django's settings, and Celery's and jobkit's among them: all begin with CELERY_."""

import os
from pathlib import Path

SERVER = os.environ.get("SHOP_SERVER", "redis://127.0.0.1:6379")

# A site of yours has a secret of its own, and none that stands in its code.
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "the secret of an example")
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "examples.django_shop.urls"
USE_TZ = True
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [Path(__file__).with_name("templates")],
    }
]

CELERY_BROKER_URL = f"{SERVER}/3"
CELERY_RESULT_BACKEND = f"{SERVER}/4"
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_DEFAULT_QUEUE = "django-shop"
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_JOBKIT_STORE_URL = f"{SERVER}/5"
CELERY_JOBKIT_LEASE_SECONDS = 5  # so long a job stands still after a `kill -9`
