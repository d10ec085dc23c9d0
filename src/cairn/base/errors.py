"""The one exception that is a person's to mend, and the one that says that all is well."""


class UserError(ValueError):
    """A mistake in what the user gave: the command line prints it as one line and exits with 2.

    Either one finished line, or four parts: the field, its value, the problem and the mend.
    `name` is the field, empty for a line.
    """

    def __init__(self, field: str, value: object = None, problem: str = "", mend: str = "") -> None:
        self.name = field if problem else ""
        if not problem:
            super().__init__(" ".join(field.split()))
            return
        shown = repr(value) if isinstance(value, str) else str(value)
        if len(shown) > 200:
            shown = shown[:200] + "..."
        text = f"{field}={shown}: {problem}" + (f"; {mend}" if mend else "")
        super().__init__(" ".join(text.split()))


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """A run was asked to end, saved, and left: the same command goes on."""
