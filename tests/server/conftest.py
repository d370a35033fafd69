"""Every test of this folder may ask for the page."""

from tests.ui.served import page_server, served

__all__ = ["page_server", "served"]
