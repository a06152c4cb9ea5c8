"""The one exception that means: the user's input is wrong, not the program."""


class InputError(Exception):
    """Wrong input of the user's: the message gives the fact, the values and the remedy.

    The command line prints the message alone, without a traceback, and ends with exit code 2. It is
    no ValueError on purpose: libraries that call our code, such as the command line's parser, catch
    those and would wrap the message in their own.
    """
