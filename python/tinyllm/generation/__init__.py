"""Requests: from token events to text, stop strings, results."""
