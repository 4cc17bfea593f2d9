"""Procedural bodies with exactly known correspondence, for the demonstration and for tests. Nothing
here knows a model or an embedding."""
