"""Foreign data sets to canonical scans and their index: where the files are, what their labels
mean. Nothing here trains."""
