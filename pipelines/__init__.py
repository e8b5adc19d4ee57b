"""Everything that runs: ingestion, forecasts, training, monitoring, maintenance; one package per stage."""
