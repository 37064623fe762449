"""The export report: figures, and the page that shows them."""
