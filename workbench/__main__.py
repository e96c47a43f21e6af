"""`python -m workbench` is the command `workbench`."""

import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Before `main` heeds it, and after, Ctrl-C ends the process without a trace.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from workbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
