"""One router per noun; a new one is one file here and one line in ``api.app``."""
