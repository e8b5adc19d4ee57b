"""Model folders by somebody who controls each of their files: what comes of loading them."""
