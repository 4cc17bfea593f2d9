"""``python -m training.average``: see :mod:`training.release.average`."""

from .release.average import main

if __name__ == "__main__":
    main()
