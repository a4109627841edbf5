"""The command line, apart from the commands themselves."""
