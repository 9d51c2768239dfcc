"""
One module per command of ``aiorpc``.

Each has ``configure(parser)``, which adds its arguments and its help, and ``execute(arguments)``,
which returns the exit status. A command imports the files of ``cli``, and no other command.
"""
