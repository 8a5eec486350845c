"""Clients for programs in Python."""

from streams.clients.predict_client import PredictClient
from streams.clients.promotion_client import PromotionClient

__all__ = ["PredictClient", "PromotionClient"]
