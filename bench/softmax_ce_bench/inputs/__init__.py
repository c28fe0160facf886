"""What is measured on: synthetic logits, the user's own arrays, and softmax regression on handwritten digits."""
