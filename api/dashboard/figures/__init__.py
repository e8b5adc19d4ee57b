"""Data of the dashboard's figures, as JSON for plotly, and the numbers beside them."""
