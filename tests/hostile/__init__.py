"""The campaign of hostile cases."""
