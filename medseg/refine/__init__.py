"""Refiners: slabs of scores in, better slabs of scores out."""
