"""The ``alphareq`` command: nothing but input and output.

Each file here is a command of its name, ``_…`` and ``main`` aside. Its first public function is
what the command does, and Python's way to do the same: the signature gives the options, the
docstring their help. Beside it a file may have ``show(result, console)``, which prints what the
function returned, ``as_json(result)`` and ``as_csv(result)``, which make the options ``--json`` and
``--csv``, and ``exit_code(result)``.
"""
