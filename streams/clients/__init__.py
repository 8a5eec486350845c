"""The clients for programs in Python; `docs/control-plane.md` and the README show their use."""

from streams.clients.predict_client import PredictClient
from streams.clients.promotion_client import PromotionClient

__all__ = ["PredictClient", "PromotionClient"]
