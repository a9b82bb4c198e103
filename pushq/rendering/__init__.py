"""Texts with placeholders, languages with fall-back, and bodies that differ by recipient. Pure: no I/O, no clock.

:mod:`templates` reads texts, :mod:`languages` chooses among variants, :mod:`contents` makes the bytes for many recipients at once.
"""
