"""How fast the models train and forecast, beside a floor and beside rivals."""
