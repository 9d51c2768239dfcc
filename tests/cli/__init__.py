"""The command line, as a user meets it: arguments, output, exit codes, signals."""
