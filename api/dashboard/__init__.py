"""The pages under ``/``: rendered here, drawn by plotly's own script, with nothing fetched from elsewhere."""

from fastapi import APIRouter

from api.dashboard import accuracy_page, assets, data_page, downloads, forecasts, models_page, runs_page
from api.dashboard.login import router as login_router

router = APIRouter(include_in_schema=False)
for _page in (forecasts, downloads, accuracy_page, models_page, runs_page, data_page, assets):
    router.include_router(_page.router)

__all__ = ["login_router", "router"]
