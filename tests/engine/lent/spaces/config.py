"""A stand-in for the configuration of the `spaces` package."""


class Config:
    zero_gpu = True
