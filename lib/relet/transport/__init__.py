"""The room that carries: endpoints, sockets and their options, the frame pump, monitors, outboxes. It decides
nothing.
"""
