"""What the package says of where it runs."""


class Config:
    zero_gpu = True
