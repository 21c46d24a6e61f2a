"""The encoders of the paper's tables as HEAR modules, one each."""
