"""``python -m training.prepare``: see :mod:`training.prepare.prepare`."""

from .prepare import main

if __name__ == "__main__":
    main()
