"""The selective scan of a state space model (Mamba)."""
