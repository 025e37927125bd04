"""Public checkpoints, one file per family: what they hold, and how it becomes a served model.

Nothing here guesses a constant. What a checkpoint's own files state is used, what they leave open
is asked for, and what contradicts its family is reported.
"""
