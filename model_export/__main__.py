"""``python -m model_export`` is ``malgil-export``."""

from model_export.cli import main

if __name__ == "__main__":
    main()
