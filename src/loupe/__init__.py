"""Loupe turns a table of labelled images into a model you can trust and ship."""
