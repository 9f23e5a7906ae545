"""The command `blink-oauth`: log in, inspect, refresh and diagnose grants from a terminal.

Each subcommand is a module that imports click and little else, so that it loads quickly. The HTTP
client, the database and the manager are imported when a subcommand runs.
"""
