"""
One module per command of ``aiorpc``. A command imports the files of ``cli``, and no other command.

``ARGUMENTS``, ``DESCRIPTION`` and ``EXAMPLES`` are the texts of a command's help.
``configure(parser)`` adds its arguments, and ``execute(arguments)`` returns the exit status.
"""
