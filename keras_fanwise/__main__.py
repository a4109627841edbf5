"""`python -m keras_fanwise`: the command line."""

from keras_fanwise_command import main

if __name__ == "__main__":
    raise SystemExit(main())
