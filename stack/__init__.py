"""How the local stack is run; `tasks.py` says what can be done with it."""
