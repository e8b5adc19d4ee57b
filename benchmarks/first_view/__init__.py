"""Load time of a page and of its interactive figure, in a browser with an empty cache."""
