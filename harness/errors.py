"""The exceptions that the command line shows as one message, without a traceback."""


class InputError(Exception):
    """Wrong input of the user's: the message gives the fact, the values and the remedy.

    The command line prints the message alone and ends with exit code 2. It is no ValueError on
    purpose: libraries that call our code, such as the command line's parser, catch those and would
    wrap the message in their own.
    """


class RecompilationError(Exception):
    """The training step was compiled after the first epoch, under --strict-xla.

    Neither wrong input nor a defect: what the user asked to be told. The command line prints the
    message alone and ends with exit code 1.
    """


class DivergenceError(Exception):
    """The loss of a run was no finite number at its end.

    The run has written what it could. The command line prints the message alone and ends with exit
    code 1.
    """
