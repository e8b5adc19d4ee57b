"""The scope that each route requires, declared once on the route or its router.

``APIRouter(dependencies=[reads])`` or ``@router.post(..., dependencies=[writes])``: the stricter of the route's and the
router's declaration applies. A route without a declaration requires ``admin``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.routing import iter_route_contexts
from starlette.routing import Mount, compile_path

from api.context import Access
from api.errors.kinds import ForbiddenError, UnauthenticatedError
from api.errors.problems import MEDIA_TYPE
from api.schemas.forecasts import Problem
from forecast.ledger.keys import Scope

_REMEMBERED = 4096
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS)
"""Statuses of :class:`~api.asgi.access_control.AccessControl`, which answers before the route."""
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key, as Authorization: Bearer KEY."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
}


@dataclass(frozen=True, slots=True)
class ScopeMark:
    """The declaration of a route or a router."""

    scope: Scope | None
    own: bool = False

    async def __call__(self, request: Request) -> None:
        """Check the scope a second time, on routes where FastAPI still solves this dependency."""
        if self.scope is not None:
            require(request.scope["context"].access, self.scope)


reads = Depends(ScopeMark(Scope.READ))
"""The route reads. A key that is limited to data sets must be valid for the path's ``{dataset}``."""
writes = Depends(ScopeMark(Scope.WRITE))
"""The route changes data of one data set."""
administers = Depends(ScopeMark(Scope.ADMIN))
"""The route changes the installation for all users."""
reads_own = Depends(ScopeMark(Scope.READ, own=True))
"""As ``reads``, for a path without ``{dataset}``: the route itself filters by :func:`api.context.access`."""
public = Depends(ScopeMark(None, own=True))
"""The route needs no key, so its answer must hold nothing confidential."""
_UNDECLARED = ScopeMark(Scope.ADMIN)


@dataclass(frozen=True, slots=True)
class RouteScope:
    """The scope of one route."""

    template: str
    methods: frozenset[str]
    """Empty: every method."""
    pattern: re.Pattern[str]
    scope: Scope | None
    """``None``: the route is public."""
    own: bool
    is_declared: bool
    is_page: bool
    """Whether it is a page for browsers, which OpenAPI leaves out."""

    def check(self, access: Access, dataset: str | None) -> None:
        """Raise ``key.missing``, ``key.scope`` or ``key.other_dataset`` unless the sender may call the route."""
        if self.scope is None:
            return
        require(access, self.scope)
        if not access.datasets:
            return
        if dataset is not None:
            require_dataset(access, dataset)
        elif not self.own:
            raise ForbiddenError(
                "key.other_dataset",
                "the key is limited to some data sets, and this address concerns all",
                "use a key for all data sets",
            )


class RouteScopes:
    """The scopes of an application's routes, looked up by method and path in the application's order."""

    def __init__(self, app: FastAPI, framework: Mapping[str, Any]) -> None:
        """``framework`` declares the scopes of paths that the framework adds."""
        self.all = tuple(_route_scopes(app, framework))
        self._known: dict[tuple[str, str], tuple[RouteScope, str | None] | None] = {}

    def find(self, method: str, path: str) -> tuple[RouteScope, str | None] | None:
        """Return a request's scope and the data set in its path; ``None`` if no route matches."""
        request = (method, path)
        if request in self._known:
            return self._known[request]
        found = self._search(method, path)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        if found is not None:  # unknown addresses would push out the known ones
            self._known[request] = found
        return found

    def methods(self, path: str) -> list[str]:
        """Return the methods that an address supports."""
        return sorted({method for route in self.all if route.pattern.match(path) for method in route.methods})

    def describe(self, document: dict[str, Any]) -> dict[str, Any]:
        """Add each route's scope to an OpenAPI document."""
        document.setdefault("components", {})["securitySchemes"] = _SCHEMES
        for route in self.all:
            for method in route.methods:
                operation = document["paths"].get(route.template, {}).get(method.lower())
                if operation is not None and route.scope is not None:
                    operation["security"] = [{name: []} for name in _SCHEMES]
                    operation["x-scope"] = str(route.scope)
                    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
                    for status in _REFUSED:
                        response = {"description": status.phrase, "content": content}
                        operation["responses"].setdefault(str(int(status)), response)
        return document

    def _search(self, method: str, path: str) -> tuple[RouteScope, str | None] | None:
        for route in self.all:
            match = route.pattern.match(path)
            if match and (not route.methods or method in route.methods):
                return route, match.groupdict().get("dataset")
        return None


def require(access: Access, scope: Scope) -> None:
    """Raise ``key.missing`` or ``key.scope`` unless an access includes a scope."""
    if access.scope is None:
        raise UnauthenticatedError(
            "key.missing", "this address requires a key", "send it as Authorization: Bearer KEY, or as X-API-Key"
        )
    if not access.scope.implies(scope):
        raise ForbiddenError(
            "key.scope", f"this address requires a key with the scope {scope}", f"use a key with the scope {scope}"
        )


def require_dataset(access: Access, dataset: str) -> None:
    """Raise ``key.other_dataset`` if the key is not valid for a data set."""
    if not access.sees(dataset):
        raise ForbiddenError(
            "key.other_dataset", "the key is limited to other data sets", "use a key for this data set"
        )


def _route_scopes(app: FastAPI, framework: Mapping[str, Any]) -> Iterable[RouteScope]:
    for context in iter_route_contexts(list(app.routes)):
        is_mount = isinstance(context.route, Mount)
        template = str(context.path if is_mount else context.path_format)
        marks = [depends.dependency for depends in getattr(context, "dependencies", None) or ()]
        marks += [declared.dependency for path, declared in framework.items() if path == template]
        declared = [mark for mark in marks if isinstance(mark, ScopeMark)]
        dependant = getattr(context, "dependant", None)
        if dependant is not None:  # AccessControl has checked them: FastAPI need not solve them with every request
            dependant.dependencies[:] = [one for one in dependant.dependencies if not isinstance(one.call, ScopeMark)]
        strictest = max(declared, key=_rank, default=_UNDECLARED)
        pattern = compile_path(f"{template}/{{path:path}}" if is_mount else str(context.path))[0]
        yield RouteScope(
            template,
            frozenset(context.methods or ()),
            pattern,
            strictest.scope,
            strictest.own,
            is_declared=bool(declared),
            is_page=not getattr(context, "include_in_schema", False),
        )


def _rank(mark: ScopeMark) -> tuple[int, bool]:
    return (-1 if mark.scope is None else mark.scope.rank, not mark.own)
