"""Dialects: one file for each wire protocol, frames to messages and back. No state, no decisions."""
