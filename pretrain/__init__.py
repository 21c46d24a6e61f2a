"""Masked-autoencoder pretraining. Nothing is here yet: the package keeps the place in the layout."""
