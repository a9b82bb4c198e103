"""Whole sends measured: everything private, counted at the providers."""
