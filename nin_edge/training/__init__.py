"""Arrays -> checkpoint: recipe, plan, batches, one step, the loop, and the scores at its end.

Read `loop.py` first.
"""
