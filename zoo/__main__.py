"""Entry point of the commands `zoo` and `python -m zoo`."""

import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line. Ctrl-C during the imports ends the process without a message."""
    if "hookimpl" not in getattr(sys.modules["zoo"], "__all__", ()):
        from zoo.system.namesakes import explain_overwritten

        error = explain_overwritten()
        print(error.line(), file=sys.stderr)
        sys.exit(error.exit_status)
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # unless the shell set it to be ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # pydantic would read the entry points of every installed distribution, and fail at a damaged one.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from zoo.cli import process

    signal.signal(signal.SIGINT, handler)
    process.run_main()


if __name__ == "__main__":
    main()
