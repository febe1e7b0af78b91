"""The command, as `zoo` and as `python -m zoo`."""

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Entry point of the installed command. Until the imports are done, Ctrl-C ends the process silently."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # not if the shell ignores it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from zoo.cli import process

    signal.signal(signal.SIGINT, handler)
    process.run_main()


if __name__ == "__main__":
    main()
