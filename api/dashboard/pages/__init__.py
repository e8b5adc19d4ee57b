"""The pages of the dashboard: one router per page."""
