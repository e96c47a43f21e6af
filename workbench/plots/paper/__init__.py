"""Figures for paper: set anew at a venue's width, drawn by a browser or by matplotlib, stamped."""
