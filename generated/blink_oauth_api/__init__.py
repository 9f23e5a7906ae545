"""A client library for accessing bLink consent flow, token endpoint"""

from .client import AuthenticatedClient, Client

__all__ = (
    "AuthenticatedClient",
    "Client",
)
