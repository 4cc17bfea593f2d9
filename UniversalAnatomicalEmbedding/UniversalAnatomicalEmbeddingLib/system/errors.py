"""The one exception type for users' mistakes."""


class InputError(ValueError):
    """The input cannot be used as it is.

    The message is written for the person who gave the input: one or two sentences that say what was found, what is needed and what to do.
    Every face of the package shows it unchanged. Anything else that is raised is a defect of the package.
    """
