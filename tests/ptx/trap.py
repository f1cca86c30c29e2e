"""The one error of this package."""


class Trap(Exception):
    """The program does what a GPU would stop at, or what no result may depend on, or what this package cannot run."""
