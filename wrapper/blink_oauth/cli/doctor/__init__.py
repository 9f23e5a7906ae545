"""The checks of `blink-oauth doctor`: each finds one kind of fault and names its remedy.

Import `examine.examine` where it is used: it loads the HTTP stack and the lifecycle.
"""
