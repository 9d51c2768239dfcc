"""
One module per command of ``aiorpc``. A command imports the files of ``cli``, and no other command.

Each has the texts of its help: ``ARGUMENTS``, ``DESCRIPTION``, ``EXAMPLES``. ``configure(parser)``
adds its arguments, and ``execute(arguments)`` returns the exit status.
"""
