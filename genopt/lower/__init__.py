"""From a chain of callbacks to a program: recording, and what is run in which stage. Nothing here runs a program."""
