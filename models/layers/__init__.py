"""Building blocks that the networks share: plain torch, shapes at line ends."""
