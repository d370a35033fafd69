"""Make the page available to the tests of this folder."""

from tests.ui.served import page_server, served

__all__ = ["page_server", "served"]
