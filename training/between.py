"""``python -m training.between``: see :mod:`training.rounds.between`."""

from .rounds.between import main

if __name__ == "__main__":
    main()
