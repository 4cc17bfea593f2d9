"""``python -m training.calibrate``: see :mod:`training.release.calibrate`."""

from .release.calibrate import main

if __name__ == "__main__":
    main()
