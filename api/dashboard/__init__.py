"""The page at ``/``: rendered here, drawn by plotly's own script, with nothing fetched from elsewhere."""

from api.dashboard.login import router as login_router
from api.dashboard.page import router

__all__ = ["login_router", "router"]
