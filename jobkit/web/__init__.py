"""Jobs on web pages: an ASGI app to mount, tokens, and a ``<job-progress>`` element.

::

    from jobkit.web import Tokens, jobs_app

    tokens = Tokens(settings.JOB_TOKEN_SECRET)
    app.mount("/-", jobs_app(kit, authorize=may_see, tokens=tokens))

For Flask and other WSGI frameworks ``jobkit.web.wsgi`` has the same as plain
functions. It needs the extra ``web``.
"""

try:
    from jobkit.web.access import Authorize
    from jobkit.web.asgi import jobs_app
    from jobkit.web.document import Showing
    from jobkit.web.tokens import Scope, Tokens
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"jobkit.web needs {str(error.name).partition('.')[0]}: "
        "pip install 'celery-jobkit[web]'."
    ) from error

__all__ = ["Authorize", "Scope", "Showing", "Tokens", "jobs_app"]
