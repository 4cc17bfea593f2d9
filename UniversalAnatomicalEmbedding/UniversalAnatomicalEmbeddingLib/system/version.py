"""The version of the package, for pip, provenance and diagnostics."""

VERSION = "0.1.0"
