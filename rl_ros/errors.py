"""The one exception for mistakes a user can mend."""


class UserError(Exception):
    """Bad input, described in one sentence: what is wrong, where, and what to do.

    The command line prints the sentence without a traceback and exits with status 2.
    """
