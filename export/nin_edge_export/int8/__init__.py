"""int8: activation ranges, quantisation, bias correction and the accuracy budget."""
