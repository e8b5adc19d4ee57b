"""From a source to checked rows in the lake."""
