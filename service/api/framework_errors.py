"""Answers the framework's own refusals (no such path, wrong method) in the envelope of all errors."""

from fastapi import Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from service.api.middleware import CONTEXT
from service.api.openapi import OPERATIONS
from service.api.problems import (
    PROBLEM_TYPE,
    FrameworkError,
    HttpError,
    MethodNotAllowed,
    NotFound,
    envelope,
    presentation_of,
)


async def framework_error(request: Request, error: Exception) -> Response:
    """The handler of FastAPI for HTTPException."""
    assert isinstance(error, HTTPException)
    problem: HttpError
    if error.status_code == 404:
        problem = NotFound(f"there is nothing at {request.url.path}; /docs shows what there is")
    elif error.status_code == 405:
        # The framework names the methods of the first route that has the path; two routes may share it.
        allowed = sorted(method.upper() for method, path in OPERATIONS if path == request.url.path)
        headers = {"Allow": ", ".join(allowed)} if allowed else error.headers
        problem = MethodNotAllowed(f"{request.method} is not possible at {request.url.path}", headers=headers)
    else:
        problem = FrameworkError(error.status_code, str(error.detail), headers=error.headers)
    context = request.scope[CONTEXT]
    context.outcome = problem.code
    presentation = presentation_of(problem)
    return Response(
        envelope(problem, context.request_id),
        status_code=presentation.status,
        headers=dict(presentation.headers),
        media_type=PROBLEM_TYPE,
    )
