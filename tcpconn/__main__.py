"""``python -m tcpconn`` is the command line, as ``tcpconn`` is."""

import sys

from tcpconn.cli import main

if __name__ == "__main__":
    sys.exit(main())
