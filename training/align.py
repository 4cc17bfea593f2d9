"""``python -m training.align``: see :mod:`training.rounds.align`."""

from .rounds.align import main

if __name__ == "__main__":
    main()
