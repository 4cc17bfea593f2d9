"""A scan embedded once: the value with its maps and grids, how it is made tile by tile, and how it
is kept on disk. What is searched in it belongs to matching."""
