"""`python -m cairn` is the same as the command `cairn` (and what `torchrun -m` needs)."""

from cairn.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
