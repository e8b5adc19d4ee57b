"""The core vocabulary of the forecasting service: jobs, lake, ledger, registry, runtime, and the command line."""
