"""The one error for input that a user can mend."""


class InputError(ValueError):
    """Input that cannot be used: the message names the file, the field or value, and the remedy.

    The command line prints the message alone and exits with code 2; any other exception is a fault of ours and
    keeps its traceback.
    """
