"""``python -m training.export``: see :mod:`training.release.export`."""

from .release.export import main

if __name__ == "__main__":
    main()
