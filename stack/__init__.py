"""How the local stack is run; `tasks.py` says what can be done with it.

The folders are floors, and what stands on one uses only those below it: commands, doctor, verbs, engines,
server, sql, ground.
"""
