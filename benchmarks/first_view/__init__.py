"""How soon a page can be read, and how soon its figure can be zoomed, in a browser that has seen nothing of it."""
