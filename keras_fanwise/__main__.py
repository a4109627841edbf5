"""`python -m keras_fanwise`: the command line."""

from keras_fanwise.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
