"""What a route answers, without HTTP."""
