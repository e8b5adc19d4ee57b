"""Building blocks of the networks: plain torch, with shapes at line ends."""
