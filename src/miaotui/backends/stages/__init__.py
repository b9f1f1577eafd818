"""Layers of one model shared out over processes: the first one schedules, the others compute states of rows."""
