"""The command `blink-oauth`: log in, look, keep alive, diagnose, from a terminal.

Every command is defined with click in a module that loads quickly. What a command works with (HTTP,
database, the manager) is loaded when it runs.
"""
