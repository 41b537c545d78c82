"""Launchers: the command line of jaxdm. Only here are flags read."""
