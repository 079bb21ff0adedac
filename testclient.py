#!/usr/bin/env python3
"""Starts a client that checks its answers; --help tells the rest, lib/relet/cli/launch.py finds the environment."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "lib", "relet", "cli"))

from launch import launch

launch(__file__, "testclient")
