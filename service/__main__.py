"""``python -m service`` is ``malgil``."""

from service.cli import main

if __name__ == "__main__":
    main()
