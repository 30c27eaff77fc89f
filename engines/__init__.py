"""Runners with one interface, and engine builders."""
