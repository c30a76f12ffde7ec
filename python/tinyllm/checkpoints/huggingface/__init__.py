"""Hugging Face directories and the Hub."""
