"""Measuring against known truth, and the pictures and tables of a report. Stateless; the library
never needs it, and neither vtk nor slicer is known here."""
