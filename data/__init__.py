"""The sample data set, shipped beside the code so that every example runs offline."""
