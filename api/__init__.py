"""The REST interface and the dashboard: routes translate, nothing else. No training framework is imported here."""
