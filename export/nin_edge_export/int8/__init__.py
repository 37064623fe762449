"""int8: activation ranges, quantisation, and the accuracy budget."""
