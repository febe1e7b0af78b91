"""The command, as `zoo` and as `python -m zoo`."""

import signal
from typing import NoReturn


def main() -> NoReturn:
    """What the installed command calls. Until all is imported, Ctrl-C ends the process without a word."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # not where the shell has set it to be ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from zoo.cli import process

    signal.signal(signal.SIGINT, handler)
    process.run_main()


if __name__ == "__main__":
    main()
