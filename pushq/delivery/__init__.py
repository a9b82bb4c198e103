"""Delivering a batch: resolve, claim, send, judge, settle."""
