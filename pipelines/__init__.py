"""What runs, each file one verb: ingest, clean, train, backtest, retrain, predict."""
