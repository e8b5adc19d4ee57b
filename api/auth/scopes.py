"""Which scope a route needs: declared once, beside the route or its router, and read from there.

``APIRouter(dependencies=[reads])`` or ``@router.post(..., dependencies=[writes])``; the strictest of what a route and
its router declare holds, and a route that declares nothing needs ``admin``.
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

from api.context import Access, ForbiddenError, UnauthenticatedError
from api.errors.problems import MEDIA_TYPE
from api.schemas.forecasts import Problem
from forecast.ledger.keys import Scope

_REMEMBERED = 4096
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS)
"""What the layer in front of the routes answers."""
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key, as Authorization: Bearer KEY."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
}


@dataclass(frozen=True, slots=True)
class ScopeMark:
    """What a route or a router declares."""

    scope: Scope | None
    own: bool = False

    async def __call__(self, request: Request) -> None:
        """Refuse again what the layer in front of the routes has refused, where FastAPI still knows of the mark."""
        if self.scope is not None:
            require(request.scope["exchange"].access, self.scope)


reads = Depends(ScopeMark(Scope.READ))
"""The route tells; a key that is limited to data sets is let in where ``{dataset}`` of the path is one of them."""
writes = Depends(ScopeMark(Scope.WRITE))
"""The route changes what any user may change."""
administers = Depends(ScopeMark(Scope.ADMIN))
"""The route decides for all."""
reads_own = Depends(ScopeMark(Scope.READ, own=True))
"""As ``reads``, for a path without ``{dataset}``: the route itself keeps to ``api.exchange.access()``."""
writes_own = Depends(ScopeMark(Scope.WRITE, own=True))
"""As ``writes``, likewise."""
public = Depends(ScopeMark(None, own=True))
"""The route is for everybody; it must tell nothing that is worth a key."""
_UNDECLARED = ScopeMark(Scope.ADMIN)


@dataclass(frozen=True, slots=True)
class RouteScope:
    """What one route needs."""

    template: str
    methods: frozenset[str]
    """Empty: any."""
    pattern: re.Pattern[str]
    scope: Scope | None
    """``None``: nothing."""
    own: bool
    is_declared: bool
    is_page: bool
    """Whether browsers are its users: it is not part of OpenAPI."""

    def check(self, access: Access, dataset: str | None) -> None:
        """Raise ``key.missing``, ``key.scope`` or ``key.other_dataset`` unless the sender may do this."""
        if self.scope is None:
            return
        require(access, self.scope)
        if not access.datasets:
            return
        if dataset is not None:
            access.require(dataset)
        elif not self.own:
            raise ForbiddenError(
                "key.other_dataset", "the key is limited to data sets, and this concerns all", "ask for a wider key"
            )


class RouteScopes:
    """The rules of an application's routes, found by method and path as the application finds the routes."""

    def __init__(self, app: FastAPI, framework: Mapping[str, Any]) -> None:
        """``framework`` declares for the paths that the framework adds by itself."""
        self.all = tuple(_rules(app, framework))
        self._known: dict[tuple[str, str], tuple[RouteScope, str | None] | None] = {}

    def find(self, method: str, path: str) -> tuple[RouteScope, str | None] | None:
        """Return the rule of a request and the data set that its path names; ``None`` if there is no such route."""
        asked = (method, path)
        if asked in self._known:
            return self._known[asked]
        found = self._search(method, path)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        if found is not None:  # or unknown addresses would push out the known ones
            self._known[asked] = found
        return found

    def methods(self, path: str) -> list[str]:
        """Return the methods that an address takes."""
        return sorted({method for rule in self.all if rule.pattern.match(path) for method in rule.methods})

    def describe(self, document: dict[str, Any]) -> dict[str, Any]:
        """Tell in an OpenAPI document which scope each route needs."""
        document.setdefault("components", {})["securitySchemes"] = _SCHEMES
        for rule in self.all:
            for method in rule.methods:
                operation = document["paths"].get(rule.template, {}).get(method.lower())
                if operation is not None and rule.scope is not None:
                    operation["security"] = [{name: []} for name in _SCHEMES]
                    operation["x-scope"] = str(rule.scope)
                    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
                    for status in _REFUSED:
                        message = {"description": status.phrase, "content": content}
                        operation["responses"].setdefault(str(int(status)), message)
        return document

    def _search(self, method: str, path: str) -> tuple[RouteScope, str | None] | None:
        for rule in self.all:
            match = rule.pattern.match(path)
            if match and (not rule.methods or method in rule.methods):
                return rule, match.groupdict().get("dataset")
        return None


def require(access: Access, scope: Scope) -> None:
    """Raise ``key.missing`` or ``key.scope`` unless an access is enough for a scope."""
    if access.scope is None:
        raise UnauthenticatedError(
            "key.missing", "this needs a key", "send it as Authorization: Bearer KEY, or as X-API-Key"
        )
    if not access.scope.implies(scope):
        raise ForbiddenError("key.scope", f"this needs a key with the scope {scope}", "ask for one")


def _rules(app: FastAPI, framework: Mapping[str, Any]) -> Iterable[RouteScope]:
    for context in iter_route_contexts(list(app.routes)):
        is_mount = isinstance(context.route, Mount)
        template = str(context.path if is_mount else context.path_format)
        marks = [depends.dependency for depends in getattr(context, "dependencies", None) or ()]
        marks += [declared.dependency for path, declared in framework.items() if path == template]
        declared = [mark for mark in marks if isinstance(mark, ScopeMark)]
        dependant = getattr(context, "dependant", None)
        if dependant is not None:  # what was read here is not solved again with every request
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
