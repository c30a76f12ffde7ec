"""Memory: the plan of a configuration, the report of a loaded model, and their pictures."""
