"""The command line's parser: a person's mistake is one line there too."""

import argparse
from typing import NoReturn

from cairn.base.errors import UserError
from cairn.base.sizes import bytes_of


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line and exits with 2; `--help` says the rest."""

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help\n")


def positive(text: str) -> int:
    """A whole number from 1 on, as the type of an argument."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return number


def size(text: str) -> int:
    """Bytes (`2GB`, `512MiB`), as the type of an argument."""
    try:
        return bytes_of(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
