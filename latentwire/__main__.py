"""``python -m latentwire``."""

from latentwire.cli import main

if __name__ == "__main__":
    main()
