"""ProbSparse attention (Informer)."""
