"""The web API for Flask, for Django's views and for all that knows no ASGI.

Plain functions with the same answers. They ask nobody for permission: the view that
calls them does. There is no push here; the element polls::

    from jobkit.web import wsgi


    @app.get("/jobs/<job_id>")
    def job(job_id):
        check_that_it_is_theirs(job_id)
        known = request.headers.get("If-None-Match", "")
        return wsgi.status(kit.jobs, job_id, if_none_match=known).flask
"""

from jobkit.web.views import Reply, act, dumps, progress, status

__all__ = ["Reply", "act", "dumps", "progress", "status"]
