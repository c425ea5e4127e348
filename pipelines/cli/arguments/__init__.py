"""What each command takes, in argparse's terms: one file a family of commands.

Importing it imports no library: `passrl --help` and a shell's completion wait for it.
"""
