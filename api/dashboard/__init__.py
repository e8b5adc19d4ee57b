"""The dashboard: pages under ``/``, rendered on the server, with plotly figures. Nothing is loaded from other hosts."""

from fastapi import APIRouter

from api.dashboard import assets
from api.dashboard.pages import accuracy, data, downloads, forecasts, models, runs
from api.dashboard.pages.login import router as login_router

router = APIRouter(include_in_schema=False)
for _page in (forecasts, downloads, accuracy, models, runs, data, assets):
    router.include_router(_page.router)

__all__ = ["login_router", "router"]
