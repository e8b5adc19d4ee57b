"""The page at ``/``: rendered here, drawn by plotly's own script, with nothing fetched from elsewhere."""

from api.dashboard.page import router

__all__ = ["router"]
