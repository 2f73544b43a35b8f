"""Why a load cannot be run."""


class BadLoad(Exception):
    """What was asked for makes no sense, or cannot be done on this machine."""


class LoadFailed(Exception):
    """The load could not be put on the target, or the generator itself failed."""
