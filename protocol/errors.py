"""The one error that a person is meant to read."""


class HeadstreamError(Exception):
    """Something outside the program is wrong: a file, an option, a message, a device.

    The text is one line that says what, where, and what would be right. The command line prints it and exits with
    status 2; a server counts and logs it and goes on. Programming errors are never wrapped in it.
    """
