"""``python -m training.finetune``: see :mod:`training.release.finetune`."""

from .release.finetune import main

if __name__ == "__main__":
    main()
