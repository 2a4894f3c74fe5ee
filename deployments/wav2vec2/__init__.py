"""The livestream sound node: a clip and its language in, probabilities of the seven categories out."""
