"""Arrays -> checkpoint: the recipe, a step, the loop, and what is measured at the end."""
