"""The inputs of measurements: synthetic logits, the user's own arrays, and softmax regression on handwritten digits."""
